"""Dtypes of intermediate results."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Returns float64 for float64, and float32 for all other dtypes.

    With `jax_numpy_dtype_promotion` at 'strict', `jnp.promote_types` refuses 16-bit dtypes.

    >>> at_least_float32("bfloat16")
    dtype('float32')
    """
    wide = jnp.dtype("float64")
    return wide if jnp.dtype(dtype) == wide else jnp.dtype("float32")


def widen(x: jax.Array) -> jax.Array:
    """Converts `x` to at least float32."""
    return x.astype(at_least_float32(x.dtype))
