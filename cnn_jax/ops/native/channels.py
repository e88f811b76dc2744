"""The sums and planes of `cnn_jax.ops.channels` by native kernels."""

import jax
import jax.numpy as jnp

from cnn_jax.ops.native import library

_SUMS = {jnp.dtype("float32"): "ChannelSumsF32", jnp.dtype("bfloat16"): "ChannelSumsBF16"}
_PLANES = {jnp.dtype("float32"): "ChannelPlanesF32", jnp.dtype("bfloat16"): "ChannelPlanesBF16"}


def covers_sums(x: jax.Array, y: jax.Array) -> bool:
    """Whether there is a kernel for these operands."""
    handler = _SUMS.get(x.dtype)
    return x.dtype == y.dtype and handler is not None and library.has(handler)


def sums(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[..., C]` twice to `[2, C]`: the sums of `x` and of `x y`, in float32."""
    result = jax.ShapeDtypeStruct((2, x.shape[-1]), jnp.float32)
    return library.call(_SUMS[x.dtype], result)(x, y)


def covers_planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> bool:
    """Whether there is a kernel for these operands."""
    handler = _PLANES.get(x.dtype)
    is_one_type = x.dtype == y.dtype and planes.dtype == jnp.float32
    return is_one_type and handler is not None and library.has(handler)


def planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`[3, C]` and `[..., C]` twice to the latter: `planes[0] + planes[1] x + planes[2] y`."""
    return library.call(_PLANES[x.dtype], jax.ShapeDtypeStruct(x.shape, x.dtype))(planes, x, y)
