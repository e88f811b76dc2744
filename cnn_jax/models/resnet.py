"""Residual networks: ResNet, ResNeXt, wide ResNet, ResNets for CIFAR, and plain networks.

He, Zhang, Ren & Sun 2015, 'Deep Residual Learning for Image Recognition' (arXiv:1512.03385),
Table 1 and section 4.2: `resnet18` to `resnet152`. `resnet20` to `resnet110` are the networks for
CIFAR-10, whose shortcuts have no parameters (option A). `plain18` and `plain34` are the baselines
without shortcuts (Fig. 3, middle).

`resnext50_32x4d`: Xie et al. 2016 (arXiv:1611.05431), Table 1. `wide_resnet50_2`: Zagoruyko &
Komodakis 2016 (arXiv:1605.07146). `resnet50d`: He, T. et al. 2018 (arXiv:1812.01187), Fig. 2.

Departures from the paper: the stride of bottlenecks is in their 3x3 convolution, as in torchvision
and timm. In `resnet50_v1` it is in the first 1x1 convolution, as in the paper and Keras. That
network also has Keras' biases in convolutions and epsilon of 1.001e-5. The initialisation is He
normal with the fan-out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors, ops
from cnn_jax.models import layers
from cnn_jax.models.dropout import Dropout, linear_rates, stochastic_depth

STEMS = ("7x7", "3x3", "deep")

# Computes a block's shortcut from its input, the number of output channels and the stride.
Shortcut = Callable[[jax.Array, int, int], jax.Array]


class ResNet(nn.Module):
    """Residual network: a stem, stages of residual blocks, global average pooling, a dense layer.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: number of blocks in each stage.
      bottleneck: if True, blocks have 1x1, 3x3 and 1x1 convolutions. If False, two 3x3.
      widths: channels of the 3x3 convolutions in each stage. Bottlenecks return four times as many.
      groups: number of groups of the 3x3 convolutions in bottlenecks.
      width_per_group: channels per group in the first stage. Later stages scale it with `widths`.
      stem: '7x7' with max-pooling, 'deep' for three 3x3 convolutions with max-pooling, or '3x3'
        without pooling, for CIFAR.
      shortcut: shortcut of blocks that change the shape. 'projection' is a 1x1 convolution,
        'pooled_projection' average-pools before it (ResNet-D), and 'padding' adds channels of zeros
        (option A). 'none' removes the shortcut from all blocks.
      stride_first: if True, a bottleneck's stride is in its first convolution.
      squeeze_share: channels of squeeze-and-excitation, as a share of the block's channels. 0 for
        no squeeze-and-excitation.
      padding: 'HALF', which is symmetric, or 'SAME' as in TensorFlow.
      conv_bias: if True, convolutions have biases.
      epsilon: constant added to the variance in batch normalisation.
      zero_init_residual: if True, the last scale of each block starts at zero, so that the block
        initially returns its shortcut (arXiv:1706.02677, section 5.1).
      stochastic_depth_rate: rate of the last block. It rises linearly from 0 in the first block.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: `stem`, `shortcut` or `padding` has an unknown name, or the lengths of
        `stage_sizes` and `widths` differ.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    bottleneck: bool = True
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    width_per_group: int = 64
    stem: str = "7x7"
    shortcut: str = "projection"
    stride_first: bool = False
    squeeze_share: float = 0.0
    padding: str = "HALF"
    conv_bias: bool = False
    epsilon: float = 1e-5
    zero_init_residual: bool = False
    stochastic_depth_rate: float = 0.0
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_padding(self.padding)
        layers.check_stages(stage_sizes=self.stage_sizes, widths=self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        conv = partial(
            layers.Conv,
            padding=self.padding,
            use_bias=self.conv_bias,
            kernel_init=layers.he_normal_fan_out,
            dtype=self.dtype,
        )
        norm = layers.batch_norm(train=train, dtype=self.dtype, epsilon=self.epsilon)
        x = layers.feature(self, "stem", self._stem(images, conv, norm))
        if self.stem != "3x3":
            x = ops.max_pool(x, 3, 2, self.padding)
        block = self._block(conv, norm, train)
        rates = iter(linear_rates(self.stochastic_depth_rate, sum(self.stage_sizes)))
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 1):
            for index in range(size):
                x = block(
                    channels=width,
                    stride=2 if index == 0 and stage > 1 else 1,
                    reshapes=index == 0 and (stage > 1 or self.bottleneck),
                    drop_rate=next(rates),
                    name=f"layer{stage}_{index}",
                )(x)
            layers.feature(self, f"stage{stage}", x)
        x = ops.global_avg_pool(x)  # [B, C]
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, dtype=self.dtype, name="fc")
        return layers.logits(x, self.num_classes, head)

    def _stem(self, images: jax.Array, conv: layers.ModuleDef, norm: layers.ModuleDef) -> jax.Array:
        if self.stem not in STEMS:
            raise errors.unknown("model.stem", self.stem, STEMS)
        x = images
        width = self.widths[0]
        if self.stem == "deep":  # the stem of ResNet-C
            for i, stride in ((1, 2), (2, 1)):
                x = conv(width // 2, (3, 3), stride, name=f"stem_conv{i}")(x)
                x = nn.relu(norm(name=f"stem_bn{i}")(x))
        kernel_size, stride = ((7, 7), 2) if self.stem == "7x7" else ((3, 3), 1)
        return nn.relu(norm(name="bn1")(conv(width, kernel_size, stride, name="conv1")(x)))

    def _block(
        self, conv: layers.ModuleDef, norm: layers.ModuleDef, train: bool
    ) -> layers.ModuleDef:
        shared: dict[str, Any] = {
            "conv": conv,
            "norm": norm,
            "shortcut": self._shortcut(conv, norm),
            "squeeze_share": self.squeeze_share,
            "zero_init": self.zero_init_residual,
            "train": train,
        }
        if not self.bottleneck:
            return partial(layers.remat(BasicBlock, self.remat), **shared)
        return partial(
            layers.remat(Bottleneck, self.remat),
            groups=self.groups,
            expansion=self.width_per_group * self.groups / self.widths[0],
            stride_first=self.stride_first,
            **shared,
        )

    def _shortcut(self, conv: layers.ModuleDef, norm: layers.ModuleDef) -> Shortcut | None:
        kinds: dict[str, Shortcut | None] = {
            "projection": partial(projection, conv=conv, norm=norm),
            "pooled_projection": partial(_pooled_projection, conv=conv, norm=norm),
            "padding": _zero_padded,
            "none": None,
        }
        if self.shortcut not in kinds:
            raise errors.unknown("model.shortcut", self.shortcut, kinds)
        return kinds[self.shortcut]


class Block(nn.Module):
    """Base class of residual blocks: adds residual and shortcut, then applies ReLU.

    Attributes:
      channels: channels of the 3x3 convolutions in a ResNet with one group.
      stride: stride of the block.
      reshapes: if True, `shortcut` changes the shape of the input. If False, the input itself is
        the shortcut.
      drop_rate: rate of stochastic depth.
      conv: builds a convolution; takes features, kernel size and stride.
      norm: builds a normalisation in training or evaluation mode; takes a name.
      shortcut: function that changes the shape of the input. None for no shortcut.
      squeeze_share: channels of squeeze-and-excitation, as a share of the block's; 0 for none.
      zero_init: if True, the scale of the last normalisation starts at zero.
      train: whether stochastic depth is active.
    """

    channels: int
    stride: int
    reshapes: bool
    drop_rate: float
    conv: layers.ModuleDef
    norm: layers.ModuleDef
    shortcut: Shortcut | None
    squeeze_share: float
    zero_init: bool
    train: bool

    def add(self, residual: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the ReLU of residual plus shortcut, `[B, H / stride, W / stride, C]`."""
        features = residual.shape[-1]
        if self.squeeze_share:
            reduced = layers.divisible(self.squeeze_share * features, least_share=0.0)
            squeeze = layers.SqueezeExcite(reduced, dtype=residual.dtype, name="se")
            residual = squeeze(residual)
        residual = stochastic_depth(residual, self.drop_rate, train=self.train)
        if self.shortcut is None:
            return nn.relu(residual)
        if self.reshapes:
            x = self.shortcut(x, features, self.stride)
        return nn.relu(residual + x)

    @property
    def last_scale_init(self) -> Initializer:
        """Initializer of the last normalisation's scale."""
        return nn.initializers.zeros_init() if self.zero_init else nn.initializers.ones_init()


class BasicBlock(Block):
    """Residual block with two 3x3 convolutions (Fig. 5, left)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.channels, (3, 3), self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.channels, (3, 3), name="conv2")(y)
        return self.add(self.norm(name="bn2", scale_init=self.last_scale_init)(y), x)


class Bottleneck(Block):
    """Residual block with 1x1, 3x3 and 1x1 convolutions (Fig. 5, right).

    Attributes:
      groups: number of groups of the 3x3 convolution.
      expansion: channels of the 3x3 convolution, divided by `channels`.
      stride_first: if True, the first convolution has the stride. If False, the second one.
    """

    groups: int
    expansion: float
    stride_first: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = int(self.channels * self.expansion)
        strides = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = self.conv(width, (1, 1), strides[0], name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(width, (3, 3), strides[1], groups=self.groups, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(4 * self.channels, (1, 1), name="conv3")(y)
        return self.add(self.norm(name="bn3", scale_init=self.last_scale_init)(y), x)


def projection(
    x: jax.Array, features: int, stride: int, *, conv: layers.ModuleDef, norm: layers.ModuleDef
) -> jax.Array:
    """Applies a 1x1 convolution and a normalisation (option B) as children of the caller."""
    y = conv(features, (1, 1), stride, name="downsample_conv")(x)
    return norm(name="downsample_bn")(y)


def _pooled_projection(
    x: jax.Array, features: int, stride: int, *, conv: layers.ModuleDef, norm: layers.ModuleDef
) -> jax.Array:
    """Average-pools by `stride`, then projects with stride 1 (ResNet-D)."""
    if stride > 1:
        x = ops.avg_pool(x, stride, ceil_mode=True, count_include_pad=False)
    return projection(x, features, 1, conv=conv, norm=norm)


def _zero_padded(x: jax.Array, features: int, stride: int) -> jax.Array:
    """Keeps every `stride`-th pixel and adds channels of zeros on both sides (option A)."""
    added = features - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)))


IMAGENET_SIZES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
CIFAR_DEPTHS = (20, 32, 44, 56, 110)


def _imagenet_variant(depth: int, **fields: Any) -> layers.Variant:
    build = partial(ResNet, stage_sizes=IMAGENET_SIZES[depth], bottleneck=depth >= 50, **fields)
    return layers.Variant(build, (224, 224, 3))


def _cifar_variant(depth: int) -> layers.Variant:
    build = partial(
        ResNet,
        stage_sizes=((depth - 2) // 6,) * 3,
        bottleneck=False,
        widths=(16, 32, 64),
        stem="3x3",
        shortcut="padding",
    )
    return layers.Variant(build, (32, 32, 3))


VARIANTS = {
    **{f"resnet{depth}": _imagenet_variant(depth) for depth in IMAGENET_SIZES},
    **{f"plain{depth}": _imagenet_variant(depth, shortcut="none") for depth in (18, 34)},
    "resnet50_v1": _imagenet_variant(50, stride_first=True, conv_bias=True, epsilon=1.001e-5),
    "resnet50d": _imagenet_variant(50, stem="deep", shortcut="pooled_projection"),
    "resnext50_32x4d": _imagenet_variant(50, groups=32, width_per_group=4),
    "resnext101_32x8d": _imagenet_variant(101, groups=32, width_per_group=8),
    "wide_resnet50_2": _imagenet_variant(50, width_per_group=128),
    "wide_resnet101_2": _imagenet_variant(101, width_per_group=128),
    **{f"resnet{depth}": _cifar_variant(depth) for depth in CIFAR_DEPTHS},
}
