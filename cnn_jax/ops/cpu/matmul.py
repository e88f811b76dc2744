"""Matrix products that contract the channels or the pixels of images."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops import dtypes
from cnn_jax.runtime import threads

# A contraction is split between the cores if it is this many times longer than its result is wide.
_LONG = 8
_CORES = threads.cores()


def over_channels(x: jax.Array, matrix: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """Multiplies `[B, H, W, C]` by `[C, O]` to `[B, H, W, O]`, summed in float32 or wider."""
    return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())), precision, _accumulator(x.dtype))


def over_pixels(x: jax.Array, y: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """Multiplies `[B, H, W, C]` by `[B, H, W, O]` to `[C, O]`, summed in float32 or wider.

    XLA divides products of many pixels and few channels badly between the cores, so the pixels are
    split here. The product is faster if the left matrix has fewer channels than the right one. The
    barrier keeps XLA from exchanging the two again.
    """
    left, right = (x, y) if x.shape[-1] <= y.shape[-1] else (y, x)
    parts = _parts(left.size // left.shape[-1], right.shape[-1])
    left, right = (z.reshape(parts, -1, z.shape[-1]) for z in (left, right))
    products = lax.dot_general(
        left, right, (((1,), (1,)), ((0,), (0,))), precision, _accumulator(x.dtype)
    )
    product = functools.reduce(jnp.add, products)
    return product if x.shape[-1] <= y.shape[-1] else lax.optimization_barrier(product).T


def _parts(length: int, width: int) -> int:
    if not isinstance(length, int) or length < _LONG * width:  # Symbolic in some exports.
        return 1
    return max(parts for parts in range(1, _CORES + 1) if length % parts == 0)


def _accumulator(dtype: jnp.dtype) -> jnp.dtype:
    return dtypes.at_least_float32(dtype)
