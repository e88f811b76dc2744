"""Maximum and sum of windows, and their gradients without scatter operations.

The gradients are computed by phases: each input gathers the gradients of its windows.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops import dtypes
from cnn_jax.ops.cpu import phases, views
from cnn_jax.ops.window import Axis


def maximum(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """Returns the maximum of each window: `[B, H, W, C]` to `[B, H', W', C]`."""
    return _reduce(x, -jnp.inf, lax.max, rows, columns)


def select(tangent: jax.Array, x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """Returns the tangent at the first maximum of each window.

    Args:
      tangent: tangent of `x`, `[B, H, W, C]`.
      x: images `[B, H, W, C]`.
      rows: vertical axis.
      columns: horizontal axis.

    Returns:
      `[B, H', W', C]`.
    """
    winner = _first_maximum(x, rows, columns)
    result = jnp.zeros(winner.shape, tangent.dtype)
    for k, tap in enumerate(views.taps(tangent, rows, columns)):
        result = jnp.where(winner == k, tap, result)
    return result


def scatter(dy: jax.Array, x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """Adds the cotangent of each window at its first maximum; the transpose of `select`.

    Args:
      dy: cotangent `[B, H', W', C]`.
      x: images `[B, H, W, C]`.
      rows: vertical axis.
      columns: horizontal axis.

    Returns:
      `[B, H, W, C]`.
    """
    winner = _first_maximum(x, rows, columns)
    no_tap = -1

    winners = phases.taps_of_phase(winner, rows, columns, no_tap)
    gradients = phases.taps_of_phase(dy, rows, columns)

    def gather(taps: np.ndarray, row_axis: Axis, column_axis: Axis) -> jax.Array:
        windows_of_input = zip(
            taps.reshape(-1),
            winners(row_axis, column_axis),
            gradients(row_axis, column_axis),
            strict=True,
        )
        return sum(
            (jnp.where(winner == tap, gradient, 0) for tap, winner, gradient in windows_of_input),
            start=jnp.zeros((), dy.dtype),
        )

    numbers = np.arange(rows.kernel * columns.kernel, dtype=np.int8)
    return phases.input_gradient(
        numbers.reshape(rows.kernel, columns.kernel), rows, columns, gather
    )


def window_sum(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """Returns the sum of each window: `[B, H, W, C]` to `[B, H', W', C]`."""
    return _sum(x, rows, columns)


def window_sum_transpose(dy: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """Adds `dy` `[B, H', W', C]` to every pixel of its window: `[B, H, W, C]`."""
    taps = np.zeros((rows.kernel, columns.kernel))
    return phases.input_gradient(taps, rows, columns, lambda _, *axes: _sum(dy, *axes))


def _sum(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    wide = dtypes.widen(x)
    return _reduce(wide, 0.0, lax.add, rows, columns).astype(x.dtype)


def _reduce(
    x: jax.Array,
    initial: float,
    operation: Callable[[jax.Array, jax.Array], jax.Array],
    rows: Axis,
    columns: Axis,
) -> jax.Array:
    paddings = [(axis.low, axis.high, axis.kernel) for axis in (rows, columns)]
    # XLA's compiler aborts the process if a window can lie entirely in the padding.
    within = all(0 <= low < kernel and 0 <= high < kernel for low, high, kernel in paddings)
    if not within or not any(low or high for low, high, _ in paddings):
        return functools.reduce(operation, views.taps(x, rows, columns, initial))
    # XLA needs no padded copy if it reduces one axis at a time.
    start = np.asarray(initial, x.dtype)
    for dimension, axis in ((2, columns), (1, rows)):
        window, strides, padding = [1] * 4, [1] * 4, [(0, 0)] * 4
        window[dimension], strides[dimension] = axis.kernel, axis.stride
        padding[dimension] = (axis.low, axis.high)
        x = lax.reduce_window(x, start, operation, window, strides, padding)
    return x


def _first_maximum(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Returns the tap at which each window has its first maximum: `[B, H', W', C]` int8.

    Taps are numbered row by row. The padding is minus infinity and no pixel: where all pixels of a
    window are minus infinity, the first of them is the maximum, as in the native kernel. The
    barrier makes XLA compute the result once.
    """
    taps = views.taps(x, rows, columns, -jnp.inf)
    inside = _inside(rows)[:, None, :, None] & _inside(columns)[None, :, None, :]
    inside = inside.reshape(len(taps), 1, *inside.shape[2:], 1)
    largest = functools.reduce(jnp.maximum, taps)
    winner = jnp.full(largest.shape, len(taps) - 1, jnp.int8)
    for k in reversed(range(len(taps) - 1)):
        is_winner = taps[k] == largest
        is_winner = is_winner if inside[k].all() else is_winner & inside[k]
        winner = jnp.where(is_winner, jnp.int8(k), winner)
    return lax.optimization_barrier(winner)


def _inside(axis: Axis) -> np.ndarray:
    """Returns whether each tap of each window reads a pixel of the image: `[kernel, H']`."""
    pixels = np.arange(axis.kernel)[:, None] + axis.stride * np.arange(axis.output) - axis.low
    return (pixels >= 0) & (pixels < axis.size)
