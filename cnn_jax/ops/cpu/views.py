"""Shifted views of images: the building stones of everything else here."""

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.window import Axis


def pad(
    x: jax.Array, rows: tuple[int, int], columns: tuple[int, int], value: float = 0
) -> jax.Array:
    """Pad (or, where negative, crop) the two spatial axes of `[B, H, W, C]`.

    Padding is written out: XLA would otherwise pad anew in each view.
    """
    if not any(rows + columns):
        return x
    widths = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
    padded = lax.pad(x, jnp.asarray(value, x.dtype), widths)
    return padded if max(rows + columns) <= 0 else lax.optimization_barrier(padded)


def tap_rows(x: jax.Array, axis: Axis, tap: int) -> jax.Array:
    """The rows of padded `x` `[B, H, W, C]` that kernel row `tap` meets: `[B, H', W, C]`."""
    return _take(x, axis, tap, 1)


def tap_columns(x: jax.Array, axis: Axis, tap: int) -> jax.Array:
    """The columns of padded `x` `[B, H, W, C]` that kernel column `tap` meets: `[B, H, W', C]`."""
    return _take(x, axis, tap, 2)


def _take(x: jax.Array, axis: Axis, tap: int, dimension: int) -> jax.Array:
    start = tap * axis.dilation
    limit = start + (axis.output - 1) * axis.stride + 1
    return lax.slice_in_dim(x, start, limit, axis.stride, dimension)


def taps(x: jax.Array, rows: Axis, columns: Axis, value: float = 0) -> list[jax.Array]:
    """What each kernel tap meets, `kh kw` of `[B, H', W', C]`, row by row."""
    x = pad(x, (rows.low, rows.high), (columns.low, columns.high), value)
    return [
        tap_columns(tap_rows(x, rows, i), columns, j)
        for i in range(rows.kernel)
        for j in range(columns.kernel)
    ]


def patches(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """All that each output sees (im2col): `[B, H, W, C]` to `[B, H', W', kh kw C]`.

    In two stages, columns first: the second then copies runs of `kw C` values.
    """
    x = pad(x, (rows.low, rows.high), (columns.low, columns.high))
    x = lax.optimization_barrier(beside(x, columns))
    return jnp.concatenate([tap_rows(x, rows, i) for i in range(rows.kernel)], axis=-1)


def beside(x: jax.Array, columns: Axis) -> jax.Array:
    """What each kernel column meets, side by side: padded `[B, H, W, C]` to `[B, H, W', kw C]`."""
    return jnp.concatenate([tap_columns(x, columns, j) for j in range(columns.kernel)], axis=-1)
