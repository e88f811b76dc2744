"""Residual networks: ResNet, ResNeXt, wide and CIFAR forms, and plain ones to compare.

He, Zhang, Ren & Sun 2015, 'Deep Residual Learning for Image Recognition' (arXiv:1512.03385),
Table 1 and section 4.2; Xie et al. 2016 (arXiv:1611.05431), Table 1: `resnext50_32x4d`; Zagoruyko &
Komodakis 2016 (arXiv:1605.07146): `wide_resnet50_2`; He, T. et al. 2018 (arXiv:1812.01187), Fig. 2:
`resnet50d`. `plain18` and `plain34` have no shortcuts (Fig. 3, middle). `resnet20` to `resnet110`
are those for CIFAR-10, with shortcuts without parameters (option A).

Departures from the paper: bottlenecks halve the image in their 3x3 convolution, as torchvision's
and timm's do, but for `resnet50_v1`, Keras' and the paper's, which does it in the first 1x1 and has
biases in its convolutions and an epsilon of 1.001e-5, as in Keras. Weights start from He's normal
distribution over the fan-out.
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

STEMS = ("7x7", "3x3", "deep")

# What is added to a block's residual: from its input, the channels of its output and its stride.
Shortcut = Callable[[jax.Array, int, int], jax.Array]


class ResNet(nn.Module):
    """A stem, stages of residual blocks, and a dense layer on the mean of all pixels.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: blocks in each stage.
      bottleneck: whether blocks are of 1x1, 3x3 and 1x1 convolutions, not of two 3x3.
      widths: channels of each stage; bottlenecks give four times as many.
      groups: of the 3x3 convolutions in bottlenecks.
      width_per_group: channels of each group in the first stage.
      stem: '7x7' with a pooling, 'deep' of three 3x3 with a pooling, or '3x3' for CIFAR.
      shortcut: where a block changes the shape: 'projection', 'pooled_projection' with a pooling
        for the stride (ResNet-D), 'padding' with zeros (option A); 'none' for no shortcut anywhere.
      stride_first: whether a bottleneck's stride is in its first convolution.
      squeeze_share: channels of squeeze-and-excitation, as a share of the block's; 0 for none.
      padding: 'HALF', symmetric, or 'SAME' as in TensorFlow.
      conv_bias: whether convolutions have biases too.
      epsilon: of the normalisation.
      zero_init_residual: whether each block begins as its shortcut alone (arXiv:1706.02677, 5.1).
      stochastic_depth_rate: of the last block, rising from 0 in the first.
      dropout_rate: before the classifier.
      dtype: what is computed in.
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
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
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
        rates = iter(layers.linear_rates(self.stochastic_depth_rate, sum(self.stage_sizes)))
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
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return layers.as_logits(nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x))

    def _stem(self, images: jax.Array, conv: layers.ModuleDef, norm: layers.ModuleDef) -> jax.Array:
        if self.stem not in STEMS:
            raise errors.unknown("model.stem", self.stem, STEMS)
        x = images
        width = self.widths[0]
        if self.stem == "deep":  # ResNet-C
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
            return partial(BasicBlock, **shared)
        return partial(
            Bottleneck,
            groups=self.groups,
            expansion=self.width_per_group * self.groups / self.widths[0],
            stride_first=self.stride_first,
            **shared,
        )

    def _shortcut(self, conv: layers.ModuleDef, norm: layers.ModuleDef) -> Shortcut | None:
        kinds: dict[str, Shortcut | None] = {
            "projection": partial(projection, conv=conv, norm=norm),
            "pooled_projection": partial(_pooled_projection, conv=conv, norm=norm),
            "padding": _padding,
            "none": None,
        }
        if self.shortcut not in kinds:
            raise errors.unknown("model.shortcut", self.shortcut, kinds)
        return kinds[self.shortcut]


class Block(nn.Module):
    """What both kinds of block share: the sum of a residual and a shortcut, and its ReLU.

    Attributes:
      channels: of the 3x3 convolutions in an ordinary ResNet.
      stride: how much smaller the result is.
      reshapes: whether the shortcut has to change the shape.
      drop_rate: of stochastic depth.
      conv: makes a convolution; takes features, kernel size and stride.
      norm: makes a normalisation that knows whether it trains.
      shortcut: that changes the shape; None for blocks without any shortcut.
      squeeze_share: of the block's channels, between the layers of its squeeze-and-excitation.
      zero_init: whether the last normalisation starts with a scale of zero.
      train: whether stochastic depth is on.
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
        """The block's result, `[B, H / stride, W / stride, C]`."""
        features = residual.shape[-1]
        if self.squeeze_share:
            reduced = layers.divisible(self.squeeze_share * features, least_share=0.0)
            squeeze = layers.SqueezeExcite(reduced, dtype=residual.dtype, name="se")
            residual = squeeze(residual)
        residual = layers.stochastic_depth(residual, self.drop_rate, train=self.train)
        if self.shortcut is None:
            return nn.relu(residual)
        if self.reshapes:
            x = self.shortcut(x, features, self.stride)
        return nn.relu(residual + x)

    @property
    def last_scale_init(self) -> Initializer:
        """How the scale of the last normalisation starts."""
        return nn.initializers.zeros_init() if self.zero_init else nn.initializers.ones_init()


class BasicBlock(Block):
    """Two 3x3 convolutions beside a shortcut (Fig. 5, left)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.channels, (3, 3), self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.channels, (3, 3), name="conv2")(y)
        return self.add(self.norm(name="bn2", scale_init=self.last_scale_init)(y), x)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (Fig. 5, right).

    Attributes:
      groups: of the 3x3 convolution.
      expansion: of its channels, over `channels`.
      stride_first: whether the stride is in the first convolution, not in the second.
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
    """A 1x1 convolution and its normalisation (option B), children of the module that calls."""
    y = conv(features, (1, 1), stride, name="downsample_conv")(x)
    return norm(name="downsample_bn")(y)


def _pooled_projection(
    x: jax.Array, features: int, stride: int, *, conv: layers.ModuleDef, norm: layers.ModuleDef
) -> jax.Array:
    if stride > 1:
        x = ops.avg_pool(x, stride, ceil_mode=True, count_include_pad=False)
    return projection(x, features, 1, conv=conv, norm=norm)


def _padding(x: jax.Array, features: int, stride: int) -> jax.Array:
    """Every `stride`th pixel, with as many channels of zeros before as after (option A)."""
    more = features - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))


IMAGENET_SIZES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
CIFAR_DEPTHS = (20, 32, 44, 56, 110)


def _imagenet(depth: int, **fields: Any) -> layers.Variant:
    build = partial(ResNet, stage_sizes=IMAGENET_SIZES[depth], bottleneck=depth >= 50, **fields)
    return layers.Variant(build, (224, 224, 3))


def _cifar(depth: int) -> layers.Variant:
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
    **{f"resnet{depth}": _imagenet(depth) for depth in IMAGENET_SIZES},
    **{f"plain{depth}": _imagenet(depth, shortcut="none") for depth in (18, 34)},
    "resnet50_v1": _imagenet(50, stride_first=True, conv_bias=True, epsilon=1.001e-5),
    "resnet50d": _imagenet(50, stem="deep", shortcut="pooled_projection"),
    "resnext50_32x4d": _imagenet(50, groups=32, width_per_group=4),
    "resnext101_32x8d": _imagenet(101, groups=32, width_per_group=8),
    "wide_resnet50_2": _imagenet(50, width_per_group=128),
    "wide_resnet101_2": _imagenet(101, width_per_group=128),
    **{f"resnet{depth}": _cifar(depth) for depth in CIFAR_DEPTHS},
}
