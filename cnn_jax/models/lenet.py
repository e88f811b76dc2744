"""LeNet-5, as it was in 1998 and as it is taught today.

LeCun, Bottou, Bengio & Haffner 1998, 'Gradient-based learning applied to document recognition',
Proc. IEEE 86 (doi:10.1109/5.726791), Fig. 2: `lenet5` has 60,000 parameters for 32x32x1 images, its
loss is `losses.distance`; `lenet` has 61,706.

Departures of `lenet5` from the paper: the codes of the ten classes are our drawings of the digits,
in the manner of its Fig. 3.

Departures of `lenet`: C3 sees all six maps of S2 instead of the sparse Table I; S2 and S4 are
plain averages, without trainable coefficient and bias; the output is a dense layer under softmax
instead of distances to fixed codes; `activation` is selectable (the paper: a scaled tanh), and
dropout on the two hidden dense layers can be switched on.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors, ops
from cnn_jax.models import digit_codes, layers

MIN_IMAGE_SIZE = 16  # below this nothing is left of the image after S4


class LeNet(nn.Module):
    """Two convolutions with average pooling, two hidden dense layers; layers named as in Fig. 2."""

    num_classes: int
    activation: str = "relu"
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "lenet")
        activation = layers.activation(self.activation)
        conv = layers.Conv
        init = layers.glorot_uniform
        x = conv(6, (5, 5), kernel_init=init, dtype=self.dtype, name="C1")(images)
        x = ops.avg_pool(activation(x), 2)  # [B, 14, 14, 6] for a 32x32 image
        layers.feature(self, "S2", x)
        x = conv(16, (5, 5), kernel_init=init, dtype=self.dtype, name="C3")(x)
        x = ops.avg_pool(activation(x), 2)  # [B, 5, 5, 16]
        layers.feature(self, "S4", x)
        x = layers.flatten(x)
        for name, width in (("C5", 120), ("F6", 84)):
            x = activation(nn.Dense(width, kernel_init=init, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        output = nn.Dense(self.num_classes, kernel_init=init, dtype=self.dtype, name="output")
        return layers.as_logits(output(x))


# Table I: which maps of S2 each map of C3 sees.
_C3_INPUTS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)


def squash(x: jax.Array) -> jax.Array:
    """`A tanh(S x)` with `A` = 1.7159, `S` = 2/3: it maps 1 to 1 and -1 to -1 (appendix A)."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def uniform_by_fan_in(fan_in: int) -> Initializer:
    """Uniform in ±2.4 / `fan_in` (appendix A)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -2.4 / fan_in, 2.4 / fan_in)

    return init


class Subsampling(nn.Module):
    """The sum of each 2x2 pixels, by a coefficient of its map, plus a bias; `[B, H/2, W/2, C]`."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init, shape = uniform_by_fan_in(4), (x.shape[-1],)
        coefficient = self.param("coefficient", init, shape, jnp.float32)
        bias = self.param("bias", init, shape, jnp.float32)
        x, coefficient, bias = promote_dtype(x, coefficient, bias, dtype=self.dtype)
        return 4 * ops.avg_pool(x, 2) * coefficient + bias


class SparseConv(nn.Module):
    """A 5x5 convolution without padding whose maps see some of the input's, as C3's do.

    Parameters: `kernel` `[5, 5, connections]` and `bias`, one for each map.
    """

    inputs: tuple[tuple[int, ...], ...]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sources = np.concatenate([np.asarray(maps) for maps in self.inputs])
        targets = np.repeat(np.arange(len(self.inputs)), [len(maps) for maps in self.inputs])
        fan_ins = 25 * np.bincount(targets)

        def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
            return uniform_by_fan_in(1)(key, shape, dtype) / fan_ins[targets].astype(dtype)

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
        return y + bias


class LeNet5(nn.Module):
    """The network of 1998; its logits are the negative squared distances of F6 to the codes."""

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "lenet5")
        if self.num_classes > len(digit_codes.CODES):
            raise errors.UserError(
                f"lenet5 has codes for {len(digit_codes.CODES)} classes, got {self.num_classes}"
            )
        c1 = layers.Conv(
            *(6, (5, 5)), kernel_init=uniform_by_fan_in(25), dtype=self.dtype, name="C1"
        )
        x = squash(c1(images))  # [B, 28, 28, 6] for a 32x32 image
        x = layers.feature(self, "S2", squash(Subsampling(self.dtype, name="S2")(x)))
        x = squash(SparseConv(_C3_INPUTS, self.dtype, name="C3")(x))  # [B, 10, 10, 16]
        x = layers.feature(self, "S4", squash(Subsampling(self.dtype, name="S4")(x)))
        x = layers.flatten(x)
        for name, width in (("C5", 120), ("F6", 84)):
            init = uniform_by_fan_in(x.shape[-1])
            x = squash(nn.Dense(width, kernel_init=init, dtype=self.dtype, name=name)(x))
        x = layers.as_logits(x)
        codes = jnp.asarray(digit_codes.CODES[: self.num_classes], x.dtype)
        return -jnp.square(x[:, None] - codes).sum(-1)


VARIANTS = {
    "lenet": layers.Variant(LeNet, (32, 32, 1)),
    "lenet5": layers.Variant(LeNet5, (32, 32, 1)),
}
