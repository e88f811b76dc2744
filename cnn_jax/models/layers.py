"""What the families share: convolution, activations, initialisers, the cast to logits."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors, ops

Constructor = Callable[..., nn.Module]
Activation = Callable[[jax.Array], jax.Array]

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {"relu": nn.relu, "sigmoid": nn.sigmoid, "tanh": jnp.tanh}
)

# He et al. 2015 (arXiv:1502.01852), eq. 10: variance 2 / fan_in keeps the scale through ReLUs.
he_normal: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Glorot & Bengio 2010, eq. 16: variance 2 / (fan_in + fan_out), for symmetric squashing functions.
glorot_uniform: Initializer = nn.initializers.glorot_uniform()


def activation(name: str) -> Activation:
    """The activation function of that name.

    Raises:
      ValueError: `name` is not a key of `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise errors.unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class Conv(nn.Module):
    """Two-dimensional convolution, `[B, H, W, C_in]` to `[B, H', W', features]`.

    Padding is symmetric, in pixels, as the papers and torch state it; 'SAME' is for networks
    whose original code had TensorFlow's. Parameters: `kernel` `[kh, kw, C_in / groups, features]`
    and `bias` `[features]`.
    """

    features: int
    kernel_size: tuple[int, int]
    stride: int = 1
    padding: int | Literal["SAME"] = 0
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = he_normal
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = ops.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding="SAME" if self.padding == "SAME" else [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y if bias is None else y + bias


def check_image_size(images: jax.Array, minimum: int, model: str) -> None:
    """Raise a ValueError if `images` `[B, H, W, C]` are too small for the poolings of `model`."""
    height, width = images.shape[1:3]
    if min(height, width) < minimum:
        raise errors.UserError(
            f"{model} needs images of at least {minimum}x{minimum} pixels, got {height}x{width}"
        )


def flatten(x: jax.Array) -> jax.Array:
    """`[B, ...]` to `[B, N]`, channels fastest."""
    return x.reshape(x.shape[0], -1)


def as_logits(x: jax.Array) -> jax.Array:
    """Float32, or float64 where the network computes in that: softmax in less loses digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
