"""Inverted residual blocks, and the base class of MobileNets and EfficientNets.

Sandler, Howard, Zhu, Zhmoginov & Chen 2018, 'MobileNetV2: Inverted Residuals and Linear
Bottlenecks' (arXiv:1801.04381), Table 1. Squeeze-and-excitation follows the depthwise convolution,
as in Tan et al. 2018 (arXiv:1807.11626), Fig. 7. Weights are initialised as in the authors' code
for EfficientNet: He normal over the fan-out, which in depthwise convolutions is that of one
channel.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models import layers
from cnn_jax.models.dropout import Dropout, stochastic_depth

# Uniform between -1 / sqrt(fan_out) and 1 / sqrt(fan_out).
classifier_init: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class InvertedResidual(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, linear 1x1 projection.

    Maps `[B, H, W, C]` to `[B, H / stride, W / stride, features]`. The expansion is left out if
    `expanded` equals `C`. The block has a shortcut if the stride is 1 and `features` equals `C`.

    Attributes:
      features: channels of the result.
      expanded: channels of the depthwise convolution.
      kernel_size: height and width of the depthwise kernel.
      stride: stride of the depthwise convolution.
      unit: builds a convolution with its normalisation and activation function.
      train: whether stochastic depth is active.
      squeeze: builds the squeeze-and-excitation block; None for a block without one.
      drop_rate: rate of stochastic depth.
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
        # An activation function would lose information in the few channels (section 3.2).
        y = self.unit(self.features, (1, 1), activation=jax.nn.identity, name="project")(y)
        if self.stride > 1 or self.features != x.shape[-1]:
            return y
        return x + stochastic_depth(y, self.drop_rate, train=self.train)


def depthwise(unit: layers.ModuleDef, channels: int, kernel_size: int, stride: int) -> nn.Module:
    """Returns a depthwise convolution, the child module `depthwise` of the calling module."""
    return unit(
        channels,
        (kernel_size, kernel_size),
        stride=stride,
        groups=channels,
        kernel_init=layers.he_normal,  # Its fan-in is the fan-out of one channel.
        name="depthwise",
    )


def inputs_and_strides(
    inputs: int, features: int, depth: int, stride: int
) -> Iterator[tuple[int, int]]:
    """Yields the number of input channels and the stride of each block of a stage.

    Args:
      inputs: input channels of the first block.
      features: output channels of every block.
      depth: number of blocks.
      stride: stride of the first block; all others have stride 1.

    >>> list(inputs_and_strides(16, 24, depth=3, stride=2))
    [(16, 2), (24, 1), (24, 1)]
    """
    yield inputs, stride
    for _ in range(depth - 1):
        yield features, 1


class MobileNetwork(nn.Module):
    """Base class of MobileNets and EfficientNets. Their `__call__` calls these methods.

    Attributes:
      num_classes: the number of logits.
      width_factor: width multiplier.
      padding: 'HALF', which is symmetric, or 'SAME' as in TensorFlow.
      epsilon: constant added to the variance in batch normalisation.
      momentum: share of the old running statistics in an update.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    width_factor: float = 1.0
    padding: str = "HALF"
    epsilon: float = 1e-5
    momentum: float = 0.9
    dropout_rate: float = 0.2
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_padding(self.padding)
        super().__post_init__()

    def width(self, channels: int) -> int:
        """Returns `channels` times the width multiplier, rounded to a multiple of 8."""
        return layers.divisible(self.width_factor * channels)

    def unit(self, activation: layers.Activation, *, train: bool) -> layers.ModuleDef:
        """Returns `layers.ConvNorm` with this network's settings and the given activation.

        Blocks call it with channels, kernel size and a name.
        """
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
        """Applies all stages to `x` and records each as an endpoint.

        Args:
          x: `[B, H, W, C]`.
          stages: builders of the blocks of each stage, which take `name`.

        Returns:
          `[B, H', W', C']`.
        """
        for number, blocks in enumerate(stages, 1):
            for index, block in enumerate(blocks):
                build = partial(block, name=f"stage{number}_{index}")
                x = layers.remat(partial(_apply, build=build), self.remat)(self, x)
            layers.feature(self, f"stage{number}", x)
        return x

    def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the logits for pooled features `[B, C]`: dropout and a dense layer."""
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, kernel_init=classifier_init, dtype=self.dtype, name="classifier")
        return layers.logits(x, self.num_classes, head)


def _apply(parent: nn.Module, x: jax.Array, *, build: layers.ModuleDef) -> jax.Array:
    """Applies the module that `build` returns, as a child of `parent`."""
    return build(parent=parent)(x)
