"""Calls of the native kernels for the sums and planes of `cnn_jax.ops.channels`."""

import jax
import jax.numpy as jnp

from cnn_jax.ops.native import library


def supports_sums(x: jax.Array, y: jax.Array) -> bool:
    """Returns True if a kernel supports the dtypes of these operands of `sums`."""
    return library.has("ChannelSums", x, y)


def sums(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the sums of `x` and of `x * y` over all pixels: `[..., C]` to `[2, C]` float32."""
    result = jax.ShapeDtypeStruct((2, x.shape[-1]), jnp.float32)
    return library.call("ChannelSums", x.dtype, result)(x, y)


def supports_planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> bool:
    """Returns True if a kernel supports the dtypes of these operands of `planes`."""
    return planes.dtype == jnp.float32 and library.has("ChannelPlanes", x, y)


def planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `planes[0] + planes[1] * x + planes[2] * y` at each pixel.

    Args:
      planes: coefficients of each channel, `[3, C]` float32.
      x: `[..., C]`.
      y: shape and dtype of `x`.

    Returns:
      Array with the shape and dtype of `x`.
    """
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return library.call("ChannelPlanes", x.dtype, result)(planes, x, y)
