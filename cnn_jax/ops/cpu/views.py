"""Padding, shifted views and im2col of images, used by the other modules of this package."""

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.window import Axis


def pad(
    x: jax.Array, rows: tuple[int, int], columns: tuple[int, int], value: float = 0
) -> jax.Array:
    """Pads the two spatial axes of `[B, H, W, C]`; negative amounts crop them.

    The barrier makes XLA compute the padded images once, not again for each view.
    """
    if not any(rows + columns):
        return x
    widths = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
    padded = lax.pad(x, jnp.asarray(value, x.dtype), widths)
    return padded if max(rows + columns) <= 0 else lax.optimization_barrier(padded)


def tap_rows(x: jax.Array, axis: Axis, tap: int) -> jax.Array:
    """Returns the rows of the padded `x` that kernel row `tap` reads: `[B, H', W, C]`."""
    return _take(x, axis, tap, 1)


def tap_columns(x: jax.Array, axis: Axis, tap: int) -> jax.Array:
    """Returns the columns of the padded `x` that kernel column `tap` reads: `[B, H, W', C]`."""
    return _take(x, axis, tap, 2)


def _take(x: jax.Array, axis: Axis, tap: int, dimension: int) -> jax.Array:
    start = tap * axis.dilation
    limit = start + (axis.output - 1) * axis.stride + 1
    return lax.slice_in_dim(x, start, limit, axis.stride, dimension)


def taps(x: jax.Array, rows: Axis, columns: Axis, value: float = 0) -> list[jax.Array]:
    """Returns the inputs that each kernel tap reads: `kh kw` arrays `[B, H', W', C]`, row by row.

    Args:
      x: images `[B, H, W, C]`.
      rows: vertical axis.
      columns: horizontal axis.
      value: value of the padding.
    """
    x = pad(x, (rows.low, rows.high), (columns.low, columns.high), value)
    return [
        tap_columns(tap_rows(x, rows, i), columns, j)
        for i in range(rows.kernel)
        for j in range(columns.kernel)
    ]


def patches(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Returns the window of each output (im2col): `[B, H, W, C]` to `[B, H', W', kh kw C]`.

    The image is padded with zeros first. The last axis is ordered by kernel row, kernel column and
    channel. The copy has two stages, along the width and then along the height, so that the second
    stage copies contiguous runs of `kw C` values.
    """
    x = pad(x, (rows.low, rows.high), (columns.low, columns.high))
    x = lax.optimization_barrier(column_patches(x, columns))
    return jnp.concatenate([tap_rows(x, rows, i) for i in range(rows.kernel)], axis=-1)


def column_patches(x: jax.Array, columns: Axis) -> jax.Array:
    """Concatenates the inputs that each kernel column reads: `[B, H, W, C]` to `[B, H, W', kw C]`.

    `x` is already padded.
    """
    return jnp.concatenate([tap_columns(x, columns, j) for j in range(columns.kernel)], axis=-1)
