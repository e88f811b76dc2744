"""Inverted residual blocks, and what the networks that are made of them share.

Sandler, Howard, Zhu, Zhmoginov & Chen 2018, 'MobileNetV2: Inverted Residuals and Linear
Bottlenecks' (arXiv:1801.04381), Table 1; with squeeze-and-excitation where Tan et al. 2018
(arXiv:1807.11626, Fig. 7) put it. Weights start as in the authors' code for EfficientNet: from He's
normal distribution over the fan-out, that of one channel in depthwise convolutions.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models import layers

# Uniform below 1 / sqrt(fan_out) in magnitude.
classifier_init: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class InvertedResidual(nn.Module):
    """Few channels to many, a depthwise convolution, and many to few beside a shortcut.

    `[B, H, W, C]` to `[B, H / stride, W / stride, features]`. There is no first convolution where
    nothing is to be expanded, and no shortcut where the shape changes.

    Attributes:
      features: channels of the result.
      expanded: channels of the depthwise convolution.
      kernel_size: of the depthwise convolution.
      stride: of the depthwise convolution.
      unit: makes a convolution with its normalisation and activation.
      train: whether stochastic depth is on.
      squeeze: makes squeeze-and-excitation, if there is one.
      drop_rate: of stochastic depth.
    """

    features: int
    expanded: int
    kernel_size: int
    stride: int
    unit: layers.ModuleDef
    train: bool
    squeeze: layers.ModuleDef | None = None
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        if self.expanded != x.shape[-1]:
            y = self.unit(self.expanded, (1, 1), name="expand")(y)
        y = depthwise(self.unit, self.expanded, self.kernel_size, self.stride)(y)
        if self.squeeze is not None:
            y = self.squeeze(name="se")(y)
        # An activation here would lose what the few channels hold (section 3.2).
        y = self.unit(self.features, (1, 1), activation=jax.nn.identity, name="project")(y)
        if self.stride > 1 or self.features != x.shape[-1]:
            return y
        return x + layers.stochastic_depth(y, self.drop_rate, train=self.train)


def depthwise(unit: layers.ModuleDef, channels: int, kernel_size: int, stride: int) -> nn.Module:
    """A convolution of each channel by itself, a child of the module that calls this."""
    return unit(
        channels,
        (kernel_size, kernel_size),
        stride=stride,
        groups=channels,
        kernel_init=layers.he_normal,  # Over the fan-in, which is one channel's.
        name="depthwise",
    )


def inputs_and_strides(
    inputs: int, features: int, depth: int, stride: int
) -> Iterator[tuple[int, int]]:
    """For each block of a stage the channels that it sees and its stride.

    >>> list(inputs_and_strides(16, 24, depth=3, stride=2))
    [(16, 2), (24, 1), (24, 1)]
    """
    yield inputs, stride
    for _ in range(depth - 1):
        yield features, 1


class MobileNetwork(nn.Module):
    """What MobileNets and EfficientNets share, to be called in their `__call__`.

    Attributes:
      num_classes: the number of logits.
      width_factor: of the channels.
      padding: 'HALF', symmetric, or 'SAME' as in TensorFlow.
      epsilon: of the normalisation.
      momentum: of its running statistics, the share that stays.
      dropout_rate: before the classifier.
      dtype: what is computed in.
    """

    num_classes: int
    width_factor: float = 1.0
    padding: str = "HALF"
    epsilon: float = 1e-5
    momentum: float = 0.9
    dropout_rate: float = 0.2
    dtype: DTypeLike = jnp.float32

    def width(self, channels: int) -> int:
        """So many channels, scaled."""
        return layers.divisible(self.width_factor * channels)

    def unit(self, activation: layers.Activation, *, train: bool) -> layers.ModuleDef:
        """Makes a convolution with its normalisation and activation."""
        norm = layers.batch_norm(
            train=train, dtype=self.dtype, epsilon=self.epsilon, momentum=self.momentum
        )
        return partial(
            layers.ConvNorm,
            norm=norm,
            padding=self.padding,
            activation=activation,
            kernel_init=layers.he_normal_fan_out,
            dtype=self.dtype,
        )

    def stages(self, x: jax.Array, stages: Iterable[Iterable[layers.ModuleDef]]) -> jax.Array:
        """One stage after the other, each of blocks that lack but their name."""
        for number, blocks in enumerate(stages, 1):
            for index, block in enumerate(blocks):
                x = block(name=f"stage{number}_{index}")(x)
            layers.feature(self, f"stage{number}", x)
        return x

    def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
        """From pooled features `[B, C]` to logits."""
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dense = nn.Dense(
            self.num_classes, kernel_init=classifier_init, dtype=self.dtype, name="classifier"
        )
        return layers.as_logits(dense(x))
