"""Calls of the native kernels for the moments, sums and planes of `cnn_jax.ops.channels`."""

import jax
import jax.numpy as jnp

from cnn_jax.ops.native import library


def supports_moments(x: jax.Array) -> bool:
    """Returns True if a kernel supports the dtype of this operand of `moments`."""
    return library.has("ChannelMoments", x)


def moments(x: jax.Array) -> jax.Array:
    """Returns mean and biased variance over all pixels: `[..., C]` to `[2, C]` float32."""
    result = jax.ShapeDtypeStruct((2, x.shape[-1]), jnp.float32)
    return library.call("ChannelMoments", x.dtype, result)(x)


def supports_sums(x: jax.Array, y: jax.Array, centre: jax.Array) -> bool:
    """Returns True if a kernel supports the dtypes of these operands of `sums`."""
    return centre.dtype == jnp.float32 and library.has("ChannelSums", x, y)


def sums(x: jax.Array, y: jax.Array, centre: jax.Array) -> jax.Array:
    """Returns the sums of `x` and of `x * (y - centre)` over all pixels, `[2, C]` float32.

    Args:
      x: `[..., C]`.
      y: shape and dtype of `x`.
      centre: `[C]` float32.
    """
    result = jax.ShapeDtypeStruct((2, x.shape[-1]), jnp.float32)
    return library.call("ChannelSums", x.dtype, result)(x, y, centre)


def supports_planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> bool:
    """Returns True if a kernel supports the dtypes of these operands of `planes`."""
    return planes.dtype == jnp.float32 and library.has("ChannelPlanes", x, y)


def planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `planes[0] + planes[1] * x + planes[2] * (y - planes[3])` at each pixel.

    Args:
      planes: coefficients of each channel, `[4, C]` float32.
      x: `[..., C]`.
      y: shape and dtype of `x`.

    Returns:
      Array with the shape and dtype of `x`.
    """
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return library.call("ChannelPlanes", x.dtype, result)(planes, x, y)
