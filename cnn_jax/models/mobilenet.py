"""MobileNet v1, v2 and v3.

`mobilenetv1_*`: Howard et al. 2017, 'MobileNets: Efficient Convolutional Neural Networks for Mobile
Vision Applications' (arXiv:1704.04861), Table 1; `mobilenetv1_100` has 4,231,976 parameters.
`mobilenetv2_*`: Sandler et al. 2018, 'MobileNetV2: Inverted Residuals and Linear Bottlenecks'
(arXiv:1801.04381), Table 2. `mobilenetv3_large_*` and `mobilenetv3_small_*`: Howard et al. 2019,
'Searching for MobileNetV3' (arXiv:1905.02244), Tables 1 and 2. The number at the end of a name is
the width multiplier in percent.

Departures from the papers, all as in the authors' code: v1 uses ReLU6. In v3 the channels of
squeeze-and-excitation are multiples of 8, and the small network has no squeeze-and-excitation after
its last convolution. Padding and normalisation are as in timm; Keras' models use `padding="SAME"`
and `epsilon=1e-3`. The initialisation is that of `inverted_residual`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from cnn_jax import errors, ops
from cnn_jax.models import layers, shapes
from cnn_jax.models.dropout import linear_rates
from cnn_jax.models.inverted_residual import (
    InvertedResidual,
    MobileNetwork,
    depthwise,
    inputs_and_strides,
)

V1_STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))  # channels, blocks
V2_STAGES = (  # Table 2: expansion, channels, blocks
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 3),
    (6, 64, 4),
    (6, 96, 3),
    (6, 160, 3),
    (6, 320, 1),
)


class MobileNetV1(MobileNetwork):
    """MobileNet v1: a 3x3 convolution, depthwise separable convolutions, and the classifier.

    Attributes:
      strides: strides of the first convolution and of the first block of each stage. Small images
        need more strides of 1.
    """

    dropout_rate: float = 0.001
    strides: tuple[int, ...] = (2, 1, 2, 2, 2, 2)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        first, *strides = _check_strides(self.strides, len(V1_STAGES))
        unit = self.unit(nn.relu6, train=train)
        x = unit(self.width(32), (3, 3), stride=first, name="stem")(images)
        x = self.stages(layers.feature(self, "stem", x), self._blocks(unit, strides))
        return self.classify(ops.global_avg_pool(x), train=train)

    def _blocks(
        self, unit: layers.ModuleDef, strides: list[int]
    ) -> Iterator[list[layers.ModuleDef]]:
        for (width, depth), first in zip(V1_STAGES, strides, strict=True):
            block = partial(DepthwiseSeparable, self.width(width), unit=unit)
            yield [partial(block, stride=first), *[partial(block, stride=1)] * (depth - 1)]


class DepthwiseSeparable(nn.Module):
    """Depthwise separable convolution of v1 (Fig. 3): a depthwise and a 1x1 convolution.

    Normalisation and activation follow both convolutions. Maps `[B, H, W, C]` to
    `[B, H / stride, W / stride, features]`.

    Attributes:
      features: channels of the result.
      stride: stride of the depthwise convolution.
      unit: builds a convolution with its normalisation and activation function.
    """

    features: int
    stride: int
    unit: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = depthwise(self.unit, x.shape[-1], 3, self.stride)(x)
        return self.unit(self.features, (1, 1), name="project")(x)


class MobileNetV2(MobileNetwork):
    """MobileNet v2: a 3x3 convolution, inverted residuals, a 1x1 convolution and the classifier.

    Attributes:
      strides: strides of the first convolution and of the first block of each stage. Small images
        need more strides of 1.
      stochastic_depth_rate: upper bound of the rates, `r`. Block `i` of `n`, counted from 0, has
        the rate `r i / n`, as in timm.
    """

    strides: tuple[int, ...] = (2, 1, 2, 2, 2, 1, 2, 1)
    stochastic_depth_rate: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        first, *strides = _check_strides(self.strides, len(V2_STAGES))
        unit = self.unit(nn.relu6, train=train)
        x = unit(self.width(32), (3, 3), stride=first, name="stem")(images)
        x = self.stages(layers.feature(self, "stem", x), self._blocks(unit, strides, train))
        x = unit(max(1280, self.width(1280)), (1, 1), name="head")(x)
        return self.classify(ops.global_avg_pool(layers.feature(self, "head", x)), train=train)

    def _blocks(
        self, unit: layers.ModuleDef, strides: list[int], train: bool
    ) -> Iterator[list[layers.ModuleDef]]:
        inputs = self.width(32)
        blocks = sum(depth for _, _, depth in V2_STAGES)
        rates = iter(linear_rates(self.stochastic_depth_rate, blocks + 1))
        for (expansion, width, depth), first in zip(V2_STAGES, strides, strict=True):
            features = self.width(width)
            block = partial(InvertedResidual, features, kernel_size=3, unit=unit, train=train)
            yield [
                partial(block, expanded=expansion * channels, stride=stride, drop_rate=next(rates))
                for channels, stride in inputs_and_strides(inputs, features, depth, first)
            ]
            inputs = features


def _check_strides(strides: tuple[int, ...], stages: int) -> tuple[int, ...]:
    """Returns `strides`, or raises UserError unless there are `stages + 1` of them."""
    if len(strides) != stages + 1:
        raise errors.UserError(
            f"model.strides must hold {stages + 1} numbers, one for the first convolution and one "
            f"for each of the {stages} stages, got {strides!r}"
        )
    return strides


class Bottleneck(NamedTuple):
    """Inverted residual block: one row of v3's Tables 1 and 2.

    Attributes:
      kernel_size: height and width of the depthwise convolution.
      expanded: channels of the depthwise convolution.
      width: channels of the result.
      squeeze: if True, the block has squeeze-and-excitation.
      activation: activation function of the block.
      stride: stride of the depthwise convolution.
    """

    kernel_size: int
    expanded: int
    width: int
    squeeze: bool
    activation: layers.Activation
    stride: int = 1


class Form(NamedTuple):
    """Configuration of a MobileNet v3 (Table 1 or 2).

    Attributes:
      stages: blocks of each stage.
      last: channels of the 1x1 convolution after the stages.
      head: channels of the layer between the pooling and the classifier.
    """

    stages: tuple[tuple[Bottleneck, ...], ...]
    last: int
    head: int


_RE, _HS = nn.relu, nn.hard_swish  # abbreviations of the tables
FORMS = {
    "large": Form(  # Table 1
        stages=(
            (Bottleneck(3, 16, 16, False, _RE),),
            (Bottleneck(3, 64, 24, False, _RE, stride=2), Bottleneck(3, 72, 24, False, _RE)),
            (
                Bottleneck(5, 72, 40, True, _RE, stride=2),
                *[Bottleneck(5, 120, 40, True, _RE)] * 2,
            ),
            (
                Bottleneck(3, 240, 80, False, _HS, stride=2),
                Bottleneck(3, 200, 80, False, _HS),
                *[Bottleneck(3, 184, 80, False, _HS)] * 2,
            ),
            (Bottleneck(3, 480, 112, True, _HS), Bottleneck(3, 672, 112, True, _HS)),
            (
                Bottleneck(5, 672, 160, True, _HS, stride=2),
                *[Bottleneck(5, 960, 160, True, _HS)] * 2,
            ),
        ),
        last=960,
        head=1280,
    ),
    "small": Form(  # Table 2
        stages=(
            (Bottleneck(3, 16, 16, True, _RE, stride=2),),
            (Bottleneck(3, 72, 24, False, _RE, stride=2), Bottleneck(3, 88, 24, False, _RE)),
            (
                Bottleneck(5, 96, 40, True, _HS, stride=2),
                *[Bottleneck(5, 240, 40, True, _HS)] * 2,
            ),
            (Bottleneck(5, 120, 48, True, _HS), Bottleneck(5, 144, 48, True, _HS)),
            (
                Bottleneck(5, 288, 96, True, _HS, stride=2),
                *[Bottleneck(5, 576, 96, True, _HS)] * 2,
            ),
        ),
        last=576,
        head=1024,
    ),
}


class MobileNetV3(MobileNetwork):
    """MobileNet v3: inverted residuals, and a head with a hidden layer after the pooling (Fig. 5).

    Attributes:
      form: 'large' or 'small'.
      stochastic_depth_rate: upper bound of the rates, `r`. Block `i` of `n`, counted from 0, has
        the rate `r i / n`. The last 1x1 convolution counts as a block, as in timm.

    Raises:
      ValueError: `form` is neither 'large' nor 'small'.
    """

    form: str = "large"
    stochastic_depth_rate: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        if self.form not in FORMS:
            raise errors.unknown("model.form", self.form, FORMS)
        unit = partial(self.unit, train=train)
        x = unit(nn.hard_swish)(self.width(16), (3, 3), stride=2, name="stem")(images)
        x = self.stages(layers.feature(self, "stem", x), self._blocks(unit, train))
        x = ops.global_avg_pool(x)[:, None, None]  # [B, 1, 1, C]
        conv = layers.Conv(
            FORMS[self.form].head,
            (1, 1),
            kernel_init=layers.he_normal_fan_out,
            dtype=self.dtype,
            name="head",
        )
        return self.classify(shapes.flatten(nn.hard_swish(conv(x))), train=train)

    def _blocks(
        self, unit: Callable[[layers.Activation], layers.ModuleDef], train: bool
    ) -> Iterator[list[layers.ModuleDef]]:
        inputs = 16
        count = sum(map(len, FORMS[self.form].stages)) + 1
        rates = iter(linear_rates(self.stochastic_depth_rate, count + 1))
        for rows in FORMS[self.form].stages:
            blocks: list[layers.ModuleDef] = []
            for row in rows:
                expanded = layers.divisible(row.expanded / inputs * self.width(inputs))
                block = partial(
                    InvertedResidual,
                    self.width(row.width),
                    expanded,
                    row.kernel_size,
                    row.stride,
                    unit(row.activation),
                    train,
                    self._squeeze(expanded) if row.squeeze else None,
                    next(rates),
                )
                blocks.append(block)
                inputs = row.width
            yield blocks
        yield [partial(unit(nn.hard_swish), self.width(FORMS[self.form].last), (1, 1))]

    def _squeeze(self, channels: int) -> layers.ModuleDef:
        reduced = layers.divisible(channels / 4)
        return partial(layers.SqueezeExcite, reduced, gate=nn.hard_sigmoid, dtype=self.dtype)


def _variant(network: layers.ModuleDef, percentage: int, **fields: Any) -> layers.Variant:
    build = partial(network, width_factor=percentage / 100, **fields)
    return layers.Variant(build, (224, 224, 3))


VARIANTS = {
    **{f"mobilenetv1_{width:03}": _variant(MobileNetV1, width) for width in (25, 50, 75, 100)},
    **{f"mobilenetv2_{width:03}": _variant(MobileNetV2, width) for width in (35, 50, 75, 100, 140)},
    **{
        f"mobilenetv3_{form}_{width:03}": _variant(MobileNetV3, width, form=form)
        for form in FORMS
        for width in (75, 100)
    },
}
