"""Convolutions of small images with few channels, as products with banded matrices.

A kernel row maps an image row `[W C]` to an output row `[W' O]` by a matrix that is zero off a
band. The zeros cost less than what it takes to lay out windows of few values.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.cpu import matmul, views
from cnn_jax.ops.window import Axis, Window

# So many values in a row of the images: 28x28 or 32x32 with one channel, 14x14 with six.
_SHORT_ROW = 96


def covers(channels: int, outputs: int, window: Window) -> bool:
    """Whether it is the fastest way."""
    rows, columns = window.rows, window.columns
    short = columns.size * channels <= _SHORT_ROW and columns.output * outputs <= 2 * _SHORT_ROW
    plain = rows.stride == columns.stride == rows.dilation == 1 < rows.kernel * columns.kernel
    return short and plain and min(_diagonal_padding(rows, 1)) >= 0


def output(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """`[B, H, W, C]` and `[kh, kw, C, O]` to `[B, H', W', O]`."""
    part = _part(window.columns)
    windows = _windows(x, window.rows, window.columns, part)
    y = matmul.over_channels(windows, _bands(kernel, part), window.precision)
    return y.reshape(*y.shape[:2], window.columns.output, kernel.shape[-1])


def input_gradient(dy: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """`[B, H', W', O]` and `[kh, kw, C, O]` to `[B, H, W, C]`."""
    rows, columns, part = window.rows, window.columns, _part(window.columns)
    parts = columns.output // part.output
    # What each part of an output row sends back: `[B, H', parts, kh w C]`.
    flat = dy.reshape(*dy.shape[:2], parts, -1)
    back = matmul.over_channels(flat, _bands(kernel, part).T, window.precision)
    back = back.reshape(dy.shape[0], rows.output * parts * rows.kernel, part.size, -1)
    sums = _sum_of_diagonals(back, rows, parts)
    sums = sums.reshape(dy.shape[0], rows.size, parts, part.size, -1)
    terms = (
        _place(sums[:, :, p], p * part.output - columns.low, columns.size) for p in range(parts)
    )
    return functools.reduce(jnp.add, terms)


def _sum_of_diagonals(x: jax.Array, rows: Axis, parts: int) -> jax.Array:
    """`[B, H' parts kh, w, C]` to `[B, H parts, w, C]`, each input row's share of the kernel rows.

    Input row `h` gets row `h + low - i` of kernel row `i`: every `parts kh - 1`th, which makes a
    dilated window. XLA writes the sums of one out. A sum of slices it would fuse into whatever
    uses it, and add up anew for each use.
    """
    taps = rows.kernel
    padding = _diagonal_padding(rows, parts)
    return lax.reduce_window(
        x,
        np.zeros((), x.dtype),
        lax.add,
        window_dimensions=(1, taps, 1, 1),
        window_strides=(1, taps, 1, 1),
        padding=((0, 0), padding, (0, 0), (0, 0)),
        window_dilation=(1, max(parts * taps - 1, 1), 1, 1),
    )


def _diagonal_padding(rows: Axis, parts: int) -> tuple[int, int]:
    step = parts * rows.kernel
    reach = (step - 1) * (rows.kernel - 1)
    return reach - step * rows.low, reach - step * rows.high


def _place(x: jax.Array, first: int, size: int) -> jax.Array:
    """Columns of `[B, H, w, C]` in zeros `[B, H, size, C]`, from `first` on."""
    widths = ((0, 0, 0), (0, 0, 0), (first, size - first - x.shape[2], 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), widths)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """`[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C, O]`."""
    part = _part(window.columns)
    windows = _windows(x, window.rows, window.columns, part)
    flat = dy.reshape(*windows.shape[:3], -1)
    bands = matmul.over_pixels(windows, flat, window.precision)
    bands = bands.reshape(window.rows.kernel, part.size, x.shape[-1], part.output, dy.shape[-1])
    return jnp.einsum("iucqo,uqj->ijco", bands, _meetings(part).astype(bands.dtype))


def _part(columns: Axis) -> Axis:
    """One half of the output columns, if they can be halved, and the padded inputs it sees."""
    output = columns.output // (2 - columns.output % 2)
    size = output + columns.dilation * (columns.kernel - 1)
    return dataclasses.replace(columns, size=size, low=0, high=0)


def _windows(x: jax.Array, rows: Axis, columns: Axis, part: Axis) -> jax.Array:
    """What each part of each output row sees: `[B, H', parts, kh w C]`, `w` the part's size."""
    x = views.pad(x, (rows.low, rows.high), (columns.low, columns.high))
    windows = [
        jnp.stack([views.tap_rows(piece, rows, i) for i in range(rows.kernel)], axis=2)
        for first in range(0, columns.output, part.output)
        for piece in [x[:, :, first : first + part.size]]
    ]
    stacked = jnp.stack(windows, axis=2)
    return stacked.reshape(*stacked.shape[:3], -1)


def _bands(kernel: jax.Array, columns: Axis) -> jax.Array:
    """`[kh, kw, C, O]` as a matrix `[kh W C, W' O]`."""
    meetings = _meetings(columns).astype(kernel.dtype)
    bands = jnp.einsum("ijco,uqj->iucqo", kernel, meetings)
    return bands.reshape(-1, columns.output * kernel.shape[-1])


def _meetings(axis: Axis) -> np.ndarray:
    """1 where input `u` meets output `q` through tap `j`: `[size, output, kernel]`."""
    inputs, outputs, taps = np.ogrid[: axis.size, : axis.output, : axis.kernel]
    return inputs == axis.stride * outputs + axis.dilation * taps - axis.low
