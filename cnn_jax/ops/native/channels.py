"""The sums and planes of `cnn_jax.ops.channels` by native kernels."""

import jax
import jax.numpy as jnp

from cnn_jax.ops.native import library


def covers_sums(x: jax.Array, y: jax.Array) -> bool:
    """Whether there is a kernel for these operands."""
    return library.has("ChannelSums", x, y)


def sums(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[..., C]` twice to `[2, C]`: the sums of `x` and of `x y`, in float32."""
    result = jax.ShapeDtypeStruct((2, x.shape[-1]), jnp.float32)
    return library.call("ChannelSums", x.dtype, result)(x, y)


def covers_planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> bool:
    """Whether there is a kernel for these operands."""
    return planes.dtype == jnp.float32 and library.has("ChannelPlanes", x, y)


def planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`[3, C]` and `[..., C]` twice to the latter: `planes[0] + planes[1] x + planes[2] y`."""
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return library.call("ChannelPlanes", x.dtype, result)(planes, x, y)
