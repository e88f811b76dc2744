"""The gradient of a convolution's input by phases: one stride-1 convolution for each.

The inputs at one remainder of the stride meet only some of the taps. Convolving the outputs,
zeros in between, with all of them would be `stride` squared times the work.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.cpu import views
from cnn_jax.ops.window import Axis

# The outputs' gradient convolved with some taps `[kh', kw', ...]`: `[B, P, Q, C]`.
Convolve = Callable[[Any, Axis, Axis], jax.Array]


def input_gradient(
    kernel: jax.Array | np.ndarray, rows: Axis, columns: Axis, convolve: Convolve
) -> jax.Array:
    """`[B, H, W, C]` from the taps of `kernel` `[kh, kw, ...]`, as `convolve` applies them."""
    results = {}
    for row in range(rows.stride):
        row_taps, row_axis = rows.phase(row)
        for column in range(columns.stride):
            column_taps, column_axis = columns.phase(column)
            if row_taps and column_taps:
                taps = kernel[row_taps.start :: row_taps.step]
                taps = taps[:, column_taps.start :: column_taps.step]
                results[row, column] = convolve(taps[::-1, ::-1], row_axis, column_axis)
    nothing = jnp.zeros_like(next(iter(results.values())))
    grid = [
        jnp.stack([results.get((row, column), nothing) for column in range(columns.stride)], 3)
        for row in range(rows.stride)
    ]
    return interleave(jnp.stack(grid, 2), rows, columns)


def views_of(
    dy: jax.Array, rows: Axis, columns: Axis, value: float = 0
) -> Callable[[Axis, Axis], list[jax.Array]]:
    """`views.taps` of `dy` for the axes of any phase, with one padding for all of them."""
    vertical, horizontal = _widest_padding(rows), _widest_padding(columns)
    padded = views.pad(dy, vertical, horizontal, value)

    def taps(row_axis: Axis, column_axis: Axis) -> list[jax.Array]:
        within = _within(row_axis, vertical), _within(column_axis, horizontal)
        return views.taps(padded, *within)

    return taps


def _widest_padding(axis: Axis) -> tuple[int, int]:
    all_phases = [axis.phase(remainder) for remainder in range(axis.stride)]
    used = [phase for taps, phase in all_phases if taps]
    return max(0, *(phase.low for phase in used)), max(0, *(phase.high for phase in used))


def _within(axis: Axis, padding: tuple[int, int]) -> Axis:
    low, high = padding
    return dataclasses.replace(
        axis, size=axis.size + low + high, low=axis.low - low, high=axis.high - high
    )


def interleave(grid: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Positions and phases `[B, P, row phase, Q, column phase, C]` to the inputs `[B, H, W, C]`."""
    batch, *_, channels = grid.shape
    full = grid.reshape(
        batch, rows.positions * rows.stride, columns.positions * columns.stride, channels
    )
    top, left = (axis.low - axis.stride * axis.first_position for axis in (rows, columns))
    return full[:, top : top + rows.size, left : left + columns.size]
