"""EfficientNet B0 to B7, and EfficientNet-lite 0 to 4.

Tan & Le 2019, 'EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks'
(arXiv:1905.11946). Table 1 is B0. B1 to B7 have more channels, more blocks and larger images; these
factors and the dropout rates are from the authors' code (TensorFlow's `tpu` repository).

The lite variants are those of the `lite` folder in that code. They use ReLU6 instead of SiLU and
have no squeeze-and-excitation. The channels of stem and head and the depths of the first and last
stage are not scaled.

Names and image sizes are timm's; the authors' code has 280 and 300 pixels for lite 3 and 4.
`efficientnet_*` have symmetric padding and timm's default constants of batch normalisation.
`tf_efficientnet_*` have TensorFlow's padding and `epsilon`, which the released weights require.

Departures from the paper: in `tf_efficientnet_b*` only the momentum of the running statistics,
which is 0.9 as in timm; the paper has 0.99. Weights are initialised as in the authors' code.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from cnn_jax import ops
from cnn_jax.models import layers
from cnn_jax.models.dropout import linear_rates
from cnn_jax.models.inverted_residual import InvertedResidual, MobileNetwork, inputs_and_strides


class Stage(NamedTuple):
    """Row of Table 1.

    Attributes:
      kernel_size: height and width of the depthwise kernels.
      stride: stride of the first block; all others have stride 1.
      expansion: channels of the depthwise convolution divided by the input channels of the block.
      width: output channels.
      depth: number of blocks.
    """

    kernel_size: int
    stride: int
    expansion: int
    width: int
    depth: int


STAGES = (  # Table 1, rows 2 to 8
    Stage(kernel_size=3, stride=1, expansion=1, width=16, depth=1),
    Stage(kernel_size=3, stride=2, expansion=6, width=24, depth=2),
    Stage(kernel_size=5, stride=2, expansion=6, width=40, depth=2),
    Stage(kernel_size=3, stride=2, expansion=6, width=80, depth=3),
    Stage(kernel_size=5, stride=1, expansion=6, width=112, depth=3),
    Stage(kernel_size=5, stride=2, expansion=6, width=192, depth=4),
    Stage(kernel_size=3, stride=1, expansion=6, width=320, depth=1),
)


class EfficientNet(MobileNetwork):
    """3x3 convolution, stages of inverted residual blocks, 1x1 convolution and the classifier.

    Attributes:
      depth_factor: depth multiplier, the factor of the number of blocks in each stage.
      lite: whether the network is a lite variant.
      stochastic_depth_rate: upper bound of the rates, `r`. Block `i` of `n`, counted from 0, has
        the rate `r i / n`.
    """

    depth_factor: float = 1.0
    lite: bool = False
    stochastic_depth_rate: float = 0.2

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        unit = self.unit(nn.relu6 if self.lite else nn.silu, train=train)
        stem, head = (32, 1280) if self.lite else (self.width(32), self.width(1280))
        x = layers.feature(self, "stem", unit(stem, (3, 3), stride=2, name="stem")(images))
        x = self.stages(x, self._blocks(stem, unit, train))
        x = layers.feature(self, "head", unit(head, (1, 1), name="head")(x))
        return self.classify(ops.global_avg_pool(x), train=train)

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks in each stage."""
        scaled = tuple(math.ceil(self.depth_factor * stage.depth) for stage in STAGES)
        return (STAGES[0].depth, *scaled[1:-1], STAGES[-1].depth) if self.lite else scaled

    def _blocks(
        self, inputs: int, unit: layers.ModuleDef, train: bool
    ) -> Iterator[list[layers.ModuleDef]]:
        rates = iter(linear_rates(self.stochastic_depth_rate, sum(self.depths) + 1))
        for stage, depth in zip(STAGES, self.depths, strict=True):
            features = self.width(stage.width)
            block = partial(
                InvertedResidual, features, kernel_size=stage.kernel_size, unit=unit, train=train
            )
            yield [
                partial(
                    block,
                    expanded=stage.expansion * channels,
                    stride=stride,
                    squeeze=self._squeeze(channels // 4),
                    drop_rate=next(rates),
                )
                for channels, stride in inputs_and_strides(inputs, features, depth, stage.stride)
            ]
            inputs = features

    def _squeeze(self, reduced: int) -> layers.ModuleDef | None:
        if self.lite:
            return None
        return partial(layers.SqueezeExcite, reduced, activation=nn.silu, dtype=self.dtype)


class Scale(NamedTuple):
    """Row of the table of variants.

    Attributes:
      width: width multiplier relative to B0.
      depth: depth multiplier relative to B0.
      size: height and width of the images of `efficientnet_*` in timm.
      tf_size: height and width of the images of `tf_efficientnet_*` in timm.
      dropout: dropout rate before the classifier.
    """

    width: float
    depth: float
    size: int
    tf_size: int
    dropout: float


SCALES = {
    "b0": Scale(1.0, 1.0, 224, 224, 0.2),
    "b1": Scale(1.0, 1.1, 240, 240, 0.2),
    "b2": Scale(1.1, 1.2, 256, 260, 0.3),
    "b3": Scale(1.2, 1.4, 288, 300, 0.3),
    "b4": Scale(1.4, 1.8, 320, 380, 0.4),
    "b5": Scale(1.6, 2.2, 448, 456, 0.4),
    "b6": Scale(1.8, 2.6, 528, 528, 0.5),
    "b7": Scale(2.0, 3.1, 600, 600, 0.5),
    "lite0": Scale(1.0, 1.0, 224, 224, 0.2),
    "lite1": Scale(1.0, 1.1, 240, 240, 0.2),
    "lite2": Scale(1.1, 1.2, 260, 260, 0.3),
    "lite3": Scale(1.2, 1.4, 300, 300, 0.3),
    "lite4": Scale(1.4, 1.8, 380, 380, 0.3),
}


def _variant(name: str, size: int, **fields: Any) -> layers.Variant:
    scale = SCALES[name]
    build = partial(
        EfficientNet,
        width_factor=scale.width,
        depth_factor=scale.depth,
        lite=name.startswith("lite"),
        dropout_rate=scale.dropout,
        **fields,
    )
    return layers.Variant(build, (size, size, 3))


VARIANTS = {
    **{f"efficientnet_{name}": _variant(name, scale.size) for name, scale in SCALES.items()},
    **{
        f"tf_efficientnet_{name}": _variant(name, scale.tf_size, padding="SAME", epsilon=1e-3)
        for name, scale in SCALES.items()
    },
}
