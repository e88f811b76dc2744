"""LeNet-5: the original network of 1998 and the simplified form taught today.

LeCun, Bottou, Bengio & Haffner 1998, 'Gradient-based learning applied to document recognition',
Proc. IEEE 86 (doi:10.1109/5.726791), Fig. 2. For 32x32x1 images `lenet5` has 60,000 parameters and
`lenet` has 61,706. The loss of `lenet5` is `losses.distance`.

Departures from the paper in `lenet5`: the codes of the ten classes are our own drawings of the
digits, in the style of Fig. 3.

Departures from the paper in `lenet`: C3 is connected to all six feature maps of S2 instead of the
subsets of Table I. S2 and S4 are average pooling without trainable coefficient and bias. The output
is a dense layer for softmax instead of distances to fixed codes. `activation` is selectable and
ReLU by default, where the paper has a scaled tanh. The two hidden dense layers have optional
dropout and DropConnect, and the pooling can be stochastic.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors, ops
from cnn_jax.models import digit_codes, dropout, layers, shapes
from cnn_jax.ops.channels import per_channel

MIN_IMAGE_SIZE = 16  # Smaller images have no pixels left after S4.


class LeNet(nn.Module):
    """Simplified LeNet-5: two convolutions, each with average pooling, and three dense layers.

    The layers have the names of Fig. 2.

    Attributes:
      num_classes: the number of logits.
      activation: a key of `layers.ACTIVATIONS`.
      dropout_rate: rate of the dropout after the two hidden dense layers.
      drop_connect_rate: rate of DropConnect in the two hidden dense layers.
      stochastic_pooling: whether S2 and S4 are stochastic pooling; `activation` must not be tanh.
      remat: whether the backward pass recomputes each convolution, with its pooling, instead of
        storing its activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    activation: str = "relu"
    dropout_rate: float = 0.0
    drop_connect_rate: float = 0.0
    stochastic_pooling: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        dropout.check_pooling(self.stochastic_pooling, self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "lenet")
        activation = layers.activation(self.activation)
        init = layers.glorot_uniform
        x = images
        # [B, 14, 14, 6] for a 32x32 image, then [B, 5, 5, 16]
        for name, features, pooled in (("C1", 6, "S2"), ("C3", 16, "S4")):
            stage = partial(LeNet._stage, name=name, features=features, train=train)
            x = layers.remat(stage, self.remat)(self, x)
            layers.feature(self, pooled, x)
        x = shapes.flatten_for(self, "C5", x, images)
        dense = dropout.dense(self.drop_connect_rate, train=train)
        for name, width in (("C5", 120), ("F6", 84)):
            x = activation(dense(width, kernel_init=init, dtype=self.dtype, name=name)(x))
            x = dropout.Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, kernel_init=init, dtype=self.dtype, name="output")
        return layers.logits(x, self.num_classes, head)

    def _stage(self, x: jax.Array, *, name: str, features: int, train: bool) -> jax.Array:
        """Applies convolution `name` with `features` channels, and pooling."""
        init = layers.glorot_uniform
        conv = layers.Conv(features, (5, 5), kernel_init=init, dtype=self.dtype, name=name)
        x = layers.activation(self.activation)(conv(x))
        if self.stochastic_pooling:
            return dropout.StochasticPool(2, deterministic=not train)(x)
        return ops.avg_pool(x, 2)


# Table I: the feature maps of S2 connected to each feature map of C3.
_C3_INPUTS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)


def scaled_tanh(x: jax.Array) -> jax.Array:
    """Returns `1.7159 tanh(2 x / 3)`, which maps 1 to 1 and -1 to -1 (appendix A)."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def uniform_by_fan_in(fan_in: int) -> Initializer:
    """Returns an initializer: uniform between -2.4 / `fan_in` and 2.4 / `fan_in` (appendix A)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -2.4 / fan_in, 2.4 / fan_in)

    return init


class Subsampling(nn.Module):
    """Trainable 2x2 subsampling, `[B, H, W, C]` to `[B, H / 2, W / 2, C]`.

    Multiplies the sum of each 2x2 window by a coefficient and adds a bias. The parameters
    `coefficient` and `bias` have one value per channel.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init, shape = uniform_by_fan_in(4), (x.shape[-1],)
        coefficient = self.param("coefficient", init, shape, jnp.float32)
        bias = self.param("bias", init, shape, jnp.float32)
        x, coefficient, bias = promote_dtype(x, coefficient, bias, dtype=self.dtype)
        y = 4 * ops.avg_pool(x, 2)
        return y * per_channel(coefficient, y) + per_channel(bias, y)


class SparseConv(nn.Module):
    """5x5 convolution without padding between selected pairs of channels, such as C3.

    Maps `[B, H, W, C]` to `[B, H - 4, W - 4, outputs]`. Parameters: `kernel`
    `[5, 5, connections]` and `bias` `[outputs]`.

    Attributes:
      inputs: for each output channel, the input channels connected to it.
      dtype: dtype of the computation.
    """

    inputs: tuple[tuple[int, ...], ...]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sources = np.concatenate([np.asarray(maps) for maps in self.inputs])
        targets = np.repeat(np.arange(len(self.inputs)), [len(maps) for maps in self.inputs])
        fan_ins = 25 * np.bincount(targets)

        def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
            fan_in = jnp.asarray(fan_ins[targets], dtype)[None, None]
            return uniform_by_fan_in(1)(key, shape, dtype) / fan_in

        kernel = self.param("kernel", init, (5, 5, len(sources)), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (len(self.inputs),), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        full = jnp.zeros((5, 5, x.shape[-1], len(self.inputs)), kernel.dtype)
        y = ops.conv_general_dilated(
            x,
            full.at[:, :, sources, targets].set(kernel),
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + per_channel(bias, y)


class LeNet5(nn.Module):
    """LeNet-5 of 1998 with Euclidean RBF outputs.

    The logits are the negative squared distances between F6 `[B, 84]` and the codes of the classes.

    Attributes:
      num_classes: the number of logits.
      remat: whether the backward pass recomputes each convolution, with its subsampling, instead of
        storing its activations.
      dtype: dtype of the computation.

    Raises:
      ValueError: there are more classes than codes.
    """

    num_classes: int
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "lenet5")
        if self.num_classes > len(digit_codes.CODES):
            raise errors.UserError(
                f"lenet5 has output codes for at most {len(digit_codes.CODES)} classes, got "
                f"{self.num_classes}; for more classes use lenet"
            )
        x = images
        for name in ("S2", "S4"):  # [B, 14, 14, 6] for a 32x32 image, then [B, 5, 5, 16]
            stage = partial(LeNet5._stage, name=name)
            x = layers.feature(self, name, layers.remat(stage, self.remat)(self, x))
        x = shapes.flatten_for(self, "C5", x, images)
        for name, width in (("C5", 120), ("F6", 84)):
            init = uniform_by_fan_in(x.shape[-1])
            x = scaled_tanh(nn.Dense(width, kernel_init=init, dtype=self.dtype, name=name)(x))
        x = layers.as_logits(x)
        if not self.num_classes:
            return x
        codes = jnp.asarray(digit_codes.CODES[: self.num_classes], x.dtype)
        return -jnp.square(x[:, None] - codes[None]).sum(-1)

    def _stage(self, x: jax.Array, *, name: str) -> jax.Array:
        """Applies the subsampling layer `name`, S2 or S4, to the maps `x` of a convolution."""
        if name == "S2":
            init = uniform_by_fan_in(25)
            x = layers.Conv(6, (5, 5), kernel_init=init, dtype=self.dtype, name="C1")(x)
        else:
            x = SparseConv(_C3_INPUTS, self.dtype, name="C3")(x)
        x = scaled_tanh(x)  # [B, 28, 28, 6] for a 32x32 image, or [B, 10, 10, 16]
        return scaled_tanh(Subsampling(self.dtype, name=name)(x))


VARIANTS = {
    "lenet": layers.Variant(LeNet, (32, 32, 1)),
    "lenet5": layers.Variant(LeNet5, (32, 32, 1)),
}
