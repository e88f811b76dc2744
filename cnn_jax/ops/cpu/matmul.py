"""Matrix products over the channels or over the pixels of images."""

import functools
import os

import jax
import jax.numpy as jnp
from jax import lax

# A contraction this many times longer than its result is wide is split between the cores.
_LONG = 8
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_channels(x: jax.Array, matrix: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """`[B, H, W, C]` by `[C, O]`: `[B, H, W, O]`, summed in float32 at least."""
    return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())), precision, _accumulator(x.dtype))


def over_pixels(x: jax.Array, y: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """`[B, H, W, C]` by `[B, H, W, O]`: `[C, O]`, summed in float32 at least.

    Many pixels by few channels is a shape that XLA divides badly between the cores, and it is
    faster where the left matrix is the one with fewer channels; the barrier keeps XLA from
    turning the product around again.
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
    if not isinstance(length, int) or length < _LONG * width:  # Exported for any number of images.
        return 1
    return max(parts for parts in range(1, _CORES + 1) if length % parts == 0)


def _accumulator(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)
