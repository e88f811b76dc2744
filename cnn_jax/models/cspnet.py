"""CSPNet: cross-stage partial networks, where half of a stage's channels bypass its blocks.

Wang, Liao, Yeh, Wu, Chen & Hsieh 2019, 'CSPNet: A New Backbone that can Enhance Learning
Capability of CNN' (arXiv:1911.11929), Figs. 3 (b) and 5: `cspresnet50`, `cspresnext50`. Bochkovskiy
et al. 2020 (arXiv:2004.10934), section 3.4: `cspdarknet53`. Stage sizes and widths are timm's.

Departures from the paper, all as in timm:

- One 1x1 convolution computes both halves; the authors' Darknet files
  (github.com/WongKinYiu/CrossStagePartialNetworks, csresnet50.cfg and csresnext50.cfg) have one for
  each half. In all stages of ResNe(X)t this convolution has no activation function; in the files
  those of the first and last stage have one.
- The first stage of ResNe(X)t splits its channels evenly; in the files 128 channels bypass the
  blocks and 64 enter them.
- The stem's pooling windows are 3x3, not 2x2.
- Leaky ReLUs have a slope of 0.01; Darknet's have 0.1.

Weights are initialised by He normal over the fan-out. Those of the classifier come from a normal
distribution with a standard deviation of 0.01. Each block starts as its shortcut, because the scale
of its last normalisation starts at 0.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors, ops
from cnn_jax.models import layers
from cnn_jax.models.dropout import Dropout, linear_rates, stochastic_depth

BLOCKS = ("bottleneck", "dark")


class CSPNet(nn.Module):
    """Stem, cross-stage partial stages, global average pooling and a dense layer.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: number of blocks in each stage.
      widths: output channels of each stage.
      expansions: for each stage, the number of channels before the split divided by its width.
      block: 'bottleneck', as in ResNet, or 'dark', as in Darknet; also selects the stem.
      groups: groups of the 3x3 convolutions.
      negative_slope: slope of the leaky ReLUs for negative inputs.
      zero_init_residual: whether each block starts as its shortcut.
      stochastic_depth_rate: rate in the last block; rates rise linearly from 0 in the first block.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: the lengths of `stage_sizes`, `widths` and `expansions` differ.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    expansions: tuple[int, ...]
    block: str = "bottleneck"
    groups: int = 1
    negative_slope: float = 0.01
    zero_init_residual: bool = True
    stochastic_depth_rate: float = 0.0
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_stages(
            stage_sizes=self.stage_sizes, widths=self.widths, expansions=self.expansions
        )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        if self.block not in BLOCKS:
            raise errors.unknown("model.block", self.block, BLOCKS)
        dark = self.block == "dark"
        activation = partial(nn.leaky_relu, negative_slope=self.negative_slope)
        norm = layers.batch_norm(train=train, dtype=self.dtype)
        conv = partial(
            layers.ConvNorm,
            norm=norm,
            padding="HALF",
            activation=activation,
            kernel_init=layers.he_normal_fan_out,
            dtype=self.dtype,
        )
        zeros = partial(norm, scale_init=nn.initializers.zeros_init())
        block = partial(
            layers.remat(DarkBlock if dark else Bottleneck, self.remat),
            conv=conv,
            last_norm=zeros if self.zero_init_residual else norm,
            activation=activation,
            groups=self.groups,
            train=train,
        )
        x = self._stem(images, conv)
        rates = iter(linear_rates(self.stochastic_depth_rate, sum(self.stage_sizes)))
        stages = zip(self.stage_sizes, self.widths, self.expansions, strict=True)
        for index, (size, width, expansion) in enumerate(stages):
            x = CrossStage(
                features=width,
                expanded=expansion * width,
                stride=1 if index == 0 and not dark else 2,
                dark=dark,
                drop_rates=tuple(next(rates) for _ in range(size)),
                groups=self.groups,
                conv=conv,
                block=block,
                name=f"stages_{index}",
            )(x)
            layers.feature(self, f"stage{index + 1}", x)
        x = Dropout(self.dropout_rate, deterministic=not train)(ops.global_avg_pool(x))
        normal = nn.initializers.normal(0.01)
        head = partial(nn.Dense, kernel_init=normal, dtype=self.dtype, name="fc")
        return layers.logits(x, self.num_classes, head)

    def _stem(self, images: jax.Array, conv: layers.ModuleDef) -> jax.Array:
        if self.block == "dark":
            return layers.feature(self, "stem", conv(32, (3, 3), name="stem_conv1")(images))
        x = layers.feature(self, "stem", conv(64, (7, 7), stride=2, name="stem_conv1")(images))
        return ops.max_pool(x, 3, 2, "HALF")


class CrossStage(nn.Module):
    """Cross-stage partial stage (Figs. 3 (b) and 5).

    A 1x1 convolution expands the channels and splits them into halves. The first half bypasses the
    blocks, the second passes through them. A 1x1 convolution merges both. Maps `[B, H, W, C]` to
    `[B, H / stride, W / stride, features]`.

    Attributes:
      features: channels of the result.
      expanded: channels before the split, both halves together.
      stride: stride of a 3x3 convolution before the split; with 1 there is no such convolution.
      dark: True for Darknet. The strided convolution then has `features` channels, otherwise those
        of its input. The convolution before the split then has an activation function.
      drop_rates: rate of stochastic depth for each block.
      groups: groups of the strided convolution.
      conv: builds a convolution with its normalisation and activation function.
      block: builds a block.
    """

    features: int
    expanded: int
    stride: int
    dark: bool
    drop_rates: tuple[float, ...]
    groups: int
    conv: layers.ModuleDef
    block: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.stride > 1:
            width = self.features if self.dark else x.shape[-1]
            conv = partial(self.conv, stride=self.stride, groups=self.groups)
            x = conv(width, (3, 3), name="conv_down")(x)
        linear = {} if self.dark else {"activation": jax.nn.identity}
        x = self.conv(self.expanded, (1, 1), **linear, name="conv_exp")(x)
        bypass, x = jnp.split(x, 2, axis=-1)
        for index, rate in enumerate(self.drop_rates):
            inner = self.features // 2
            x = self.block(inner=inner, drop_rate=rate, name=f"blocks_{index}")(x)
        x = self.conv(self.expanded // 2, (1, 1), name="conv_transition_b")(x)
        x = jnp.concatenate([bypass, x], axis=-1)
        return self.conv(self.features, (1, 1), name="conv_transition")(x)


class Block(nn.Module):
    """Base class with the fields of both kinds of block, `[B, H, W, C]` to the same shape.

    Attributes:
      inner: channels of all convolutions but the last.
      drop_rate: rate of stochastic depth.
      groups: groups of the 3x3 convolution.
      conv: builds a convolution with its normalisation and activation function.
      last_norm: builds the normalisation of the last convolution.
      activation: activation function after the sum with the shortcut; `Bottleneck` only.
      train: whether stochastic depth is active.
    """

    inner: int
    drop_rate: float
    groups: int
    conv: layers.ModuleDef
    last_norm: layers.ModuleDef
    activation: layers.Activation
    train: bool


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions with a shortcut, as in ResNet."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.inner, (1, 1), name="conv1")(x)
        y = self.conv(self.inner, (3, 3), groups=self.groups, name="conv2")(y)
        last = partial(self.conv, norm=self.last_norm, activation=jax.nn.identity)
        y = last(x.shape[-1], (1, 1), name="conv3")(y)
        return self.activation(x + stochastic_depth(y, self.drop_rate, train=self.train))


class DarkBlock(Block):
    """1x1 and 3x3 convolutions with a shortcut, as in Darknet: no activation after the sum."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.inner, (1, 1), name="conv1")(x)
        last = partial(self.conv, norm=self.last_norm, groups=self.groups)
        y = last(x.shape[-1], (3, 3), name="conv2")(y)
        return x + stochastic_depth(y, self.drop_rate, train=self.train)


def _variant(stage_sizes: tuple[int, ...], first_width: int, **fields: Any) -> layers.Variant:
    """Returns a variant whose width doubles from stage to stage."""
    widths = tuple(first_width * 2**stage for stage in range(len(stage_sizes)))
    build = partial(CSPNet, stage_sizes=stage_sizes, widths=widths, **fields)
    return layers.Variant(build, (256, 256, 3))


VARIANTS = {
    "cspresnet50": _variant((3, 3, 5, 2), 128, expansions=(2, 2, 2, 2)),
    "cspresnext50": _variant((3, 3, 5, 2), 256, expansions=(1, 1, 1, 1), groups=32),
    "cspdarknet53": _variant((1, 2, 8, 8, 4), 64, expansions=(2, 1, 1, 1, 1), block="dark"),
}
