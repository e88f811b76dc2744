"""Input gradient of a strided convolution, computed by one stride-1 convolution for each phase.

A phase consists of the inputs at one remainder of the stride. Only some taps of the kernel read
them. The alternative inserts zeros between the output gradients and convolves them with all taps,
which is `stride` squared times the work.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.cpu import views
from cnn_jax.ops.window import Axis

# Convolves the output gradient with the taps of one phase `[kh', kw', ...]`, for the axes of the
# phase. Returns one value for each position: `[B, P, Q, C]`.
Convolve = Callable[[Any, Axis, Axis], jax.Array]


def input_gradient(
    kernel: jax.Array | np.ndarray, rows: Axis, columns: Axis, convolve: Convolve
) -> jax.Array:
    """Computes the input gradient `[B, H, W, C]` of a convolution with strides, phase by phase.

    A phase is the inputs with the same row modulo the stride and the same column modulo the stride.
    Its gradient is a convolution of the output's gradient, without stride, with the taps that reach
    the phase.

    Args:
      kernel: taps `[kh, kw, ...]`.
      rows: vertical axis of the forward convolution.
      columns: horizontal axis of the forward convolution.
      convolve: a function that convolves the output's gradient, which it already holds. Its
        arguments are the taps of a phase, already reversed along both axes, and the phase's axes.
    """
    results = {}
    for row in range(rows.stride):
        row_taps, row_axis = rows.phase(row)
        for column in range(columns.stride):
            column_taps, column_axis = columns.phase(column)
            if row_taps and column_taps:
                taps = kernel[row_taps.start :: row_taps.step]
                taps = taps[:, column_taps.start :: column_taps.step]
                results[row, column] = convolve(taps[::-1, ::-1], row_axis, column_axis)
    zeros = jnp.zeros_like(next(iter(results.values())))
    grid = [
        jnp.stack([results.get((row, column), zeros) for column in range(columns.stride)], 3)
        for row in range(rows.stride)
    ]
    return interleave(jnp.stack(grid, 2), rows, columns)


def taps_of_phase(
    dy: jax.Array, rows: Axis, columns: Axis, value: float = 0
) -> Callable[[Axis, Axis], list[jax.Array]]:
    """Returns a function from the two axes of a phase to `views.taps` of `dy`.

    `dy` is padded once, by the largest padding of all phases.
    """
    vertical, horizontal = _widest_padding(rows), _widest_padding(columns)
    padded = views.pad(dy, vertical, horizontal, value)

    def taps(row_axis: Axis, column_axis: Axis) -> list[jax.Array]:
        within = (
            _axis_after_padding(row_axis, vertical),
            _axis_after_padding(column_axis, horizontal),
        )
        return views.taps(padded, *within)

    return taps


def _widest_padding(axis: Axis) -> tuple[int, int]:
    """Returns the largest padding of all phases before and after the axis."""
    all_phases = [axis.phase(remainder) for remainder in range(axis.stride)]
    used = [phase for taps, phase in all_phases if taps]
    return max(0, *(phase.low for phase in used)), max(0, *(phase.high for phase in used))


def _axis_after_padding(axis: Axis, padding: tuple[int, int]) -> Axis:
    """Returns the equivalent axis for inputs that already have the given padding."""
    low, high = padding
    return dataclasses.replace(
        axis, size=axis.size + low + high, low=axis.low - low, high=axis.high - high
    )


def interleave(grid: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Merges the phases `[B, P, row phase, Q, column phase, C]` into the inputs `[B, H, W, C]`."""
    batch, *_, channels = grid.shape
    full = grid.reshape(
        batch, rows.positions * rows.stride, columns.positions * columns.stride, channels
    )
    top, left = (axis.low - axis.stride * axis.first_position for axis in (rows, columns))
    return full[:, top : top + rows.size, left : left + columns.size]
