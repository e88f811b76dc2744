"""Pooling along one axis after the other, and its gradients without scatters."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.cpu import phases, views
from cnn_jax.ops.window import Axis


def maximum(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """The largest of each window: `[B, H, W, C]` to `[B, H', W', C]`."""
    return _reduce(x, -jnp.inf, lax.max, rows, columns)


def select(tangent: jax.Array, x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """`tangent` where `x` has the first maximum of each window, both `[B, H, W, C]`."""
    winner = _first_maximum(x, rows, columns)
    result = jnp.zeros(winner.shape, tangent.dtype)
    for k, tap in enumerate(views.taps(tangent, rows, columns)):
        result = jnp.where(winner == k, tap, result)
    return result


def scatter(dy: jax.Array, x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """`dy` `[B, H', W', C]` added where `x` `[B, H, W, C]` has each window's first maximum."""
    winner = _first_maximum(x, rows, columns)
    nobody = -1

    winners = phases.views_of(winner, rows, columns, nobody)
    gradients = phases.views_of(dy, rows, columns)

    def gather(taps: np.ndarray, row_axis: Axis, column_axis: Axis) -> jax.Array:
        views_of_both = zip(
            taps.reshape(-1),
            winners(row_axis, column_axis),
            gradients(row_axis, column_axis),
            strict=True,
        )
        return sum(
            (jnp.where(winner == tap, gradient, 0) for tap, winner, gradient in views_of_both),
            start=jnp.zeros((), dy.dtype),
        )

    numbers = np.arange(rows.kernel * columns.kernel, dtype=np.int8)
    return phases.input_gradient(
        numbers.reshape(rows.kernel, columns.kernel), rows, columns, gather
    )


def total(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """The sum of each window: `[B, H, W, C]` to `[B, H', W', C]`."""
    return _sum(x, rows, columns)


def spread(dy: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """`dy` `[B, H', W', C]` added to every pixel of its window: `[B, H, W, C]`."""
    taps = np.zeros((rows.kernel, columns.kernel))
    return phases.input_gradient(taps, rows, columns, lambda _, *axes: _sum(dy, *axes))


def _sum(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return _reduce(wide, 0.0, lax.add, rows, columns).astype(x.dtype)


def _reduce(
    x: jax.Array,
    initial: float,
    operation: Callable[[jax.Array, jax.Array], jax.Array],
    rows: Axis,
    columns: Axis,
) -> jax.Array:
    paddings = [(axis.low, axis.high, axis.kernel) for axis in (rows, columns)]
    # XLA's compiler ends the process where a window can lie in the padding alone.
    within = all(0 <= low < kernel and 0 <= high < kernel for low, high, kernel in paddings)
    if not within or not any(low or high for low, high, _ in paddings):
        return functools.reduce(operation, views.taps(x, rows, columns, initial))
    # Along one axis after the other XLA needs no padded copy.
    start = np.asarray(initial, x.dtype)
    for dimension, axis in ((2, columns), (1, rows)):
        window, strides, padding = [1] * 4, [1] * 4, [(0, 0)] * 4
        window[dimension], strides[dimension] = axis.kernel, axis.stride
        padding[dimension] = (axis.low, axis.high)
        x = lax.reduce_window(x, start, operation, window, strides, padding)
    return x


def _first_maximum(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """The number of the tap, row by row, that is the first to meet the maximum; written out."""
    taps = views.taps(x, rows, columns, -jnp.inf)
    largest = functools.reduce(jnp.maximum, taps)
    winner = jnp.full(largest.shape, len(taps) - 1, jnp.int8)
    for k in reversed(range(len(taps) - 1)):
        winner = jnp.where(taps[k] == largest, jnp.int8(k), winner)
    return lax.optimization_barrier(winner)
