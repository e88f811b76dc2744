"""Convolutions of small images with few channels, as products with banded matrices.

A kernel row maps an image row `[W C]` to an output row `[W' O]`. The matrix of this map is zero
outside of a band. Multiplying by its zeros costs less than im2col with windows of few values. An
output row with an even number of columns is computed in two parts, whose matrices are smaller.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.cpu import matmul, views
from cnn_jax.ops.window import Axis, Window

# Maximum number of values in an image row. It allows 28x28 and 32x32 images with one channel, and
# 14x14 images with six.
_SHORT_ROW = 96


def is_fastest(channels: int, outputs: int, window: Window) -> bool:
    """Returns True if banded matrices are the fastest algorithm for these shapes."""
    rows, columns = window.rows, window.columns
    short = columns.size * channels <= _SHORT_ROW and columns.output * outputs <= 2 * _SHORT_ROW
    plain = rows.stride == columns.stride == rows.dilation == 1 < rows.kernel * columns.kernel
    return short and plain and min(_diagonal_padding(rows, 1)) >= 0


def output(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes the output: `[B, H, W, C]` and `[kh, kw, C, O]` to `[B, H', W', O]`."""
    part = _part_axis(window.columns)
    windows = _windows(x, window.rows, window.columns, part)
    y = matmul.over_channels(windows, _band_matrix(kernel, part), window.precision)
    return y.reshape(*y.shape[:2], window.columns.output, kernel.shape[-1])


def input_gradient(dy: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes the input gradient: `[B, H', W', O]` and `[kh, kw, C, O]` to `[B, H, W, C]`."""
    rows, columns, part = window.rows, window.columns, _part_axis(window.columns)
    parts, channels = columns.output // part.output, kernel.shape[2]
    # Contribution of each part of an output row to the input gradient: `[B, H', parts, kh w C]`.
    flat = dy.reshape(*dy.shape[:2], parts, part.output * dy.shape[-1])
    back = matmul.over_channels(flat, _band_matrix(kernel, part).T, window.precision)
    back = back.reshape(dy.shape[0], rows.output * parts * rows.kernel, part.size, channels)
    sums = _sum_of_diagonals(back, rows, parts)
    sums = sums.reshape(dy.shape[0], rows.size, parts, part.size, channels)
    terms = (
        _place_columns(sums[:, :, p], p * part.output - columns.low, columns.size)
        for p in range(parts)
    )
    return functools.reduce(jnp.add, terms)


def _sum_of_diagonals(x: jax.Array, rows: Axis, parts: int) -> jax.Array:
    """Sums the contributions to each input row: `[B, H' parts kh, w, C]` to `[B, H parts, w, C]`.

    Kernel row `i` contributes to input row `h` from output row `h + low - i`. These contributions
    are `parts kh - 1` rows apart, so their sum is that of a dilated window. XLA computes a
    `reduce_window` once. It would fuse a sum of slices into each of its users and repeat it there.
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


def _place_columns(x: jax.Array, first: int, size: int) -> jax.Array:
    """Places the columns of `[B, H, w, C]` into zeros `[B, H, size, C]`, starting at `first`.

    Columns outside of the `size` columns are cropped.
    """
    widths = ((0, 0, 0), (0, 0, 0), (first, size - first - x.shape[2], 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), widths)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """Computes the kernel gradient: `[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C, O]`."""
    part = _part_axis(window.columns)
    windows = _windows(x, window.rows, window.columns, part)
    flat = dy.reshape(*windows.shape[:3], part.output * dy.shape[-1])
    bands = matmul.over_pixels(windows, flat, window.precision)
    bands = bands.reshape(window.rows.kernel, part.size, x.shape[-1], part.output, dy.shape[-1])
    return jnp.einsum("iucqo,uqj->ijco", bands, _reads(part).astype(bands.dtype))


def _part_axis(columns: Axis) -> Axis:
    """Returns the axis of one part of the output columns, and of the padded inputs that it reads.

    A part is half of the columns if their number is even, and all of them otherwise.
    """
    output = columns.output // (2 - columns.output % 2)
    size = output + columns.dilation * (columns.kernel - 1)
    return dataclasses.replace(columns, size=size, low=0, high=0)


def _windows(x: jax.Array, rows: Axis, columns: Axis, part: Axis) -> jax.Array:
    """Returns the inputs of each part of each output row: `[B, H', parts, kh part.size C]`."""
    x = views.pad(x, (rows.low, rows.high), (columns.low, columns.high))
    windows = [
        jnp.stack([views.tap_rows(piece, rows, i) for i in range(rows.kernel)], axis=2)
        for first in range(0, columns.output, part.output)
        for piece in [x[:, :, first : first + part.size]]
    ]
    return lax.collapse(jnp.stack(windows, axis=2), 3)


def _band_matrix(kernel: jax.Array, columns: Axis) -> jax.Array:
    """Returns the kernel `[kh, kw, C, O]` as a banded matrix `[kh W C, W' O]`."""
    reads = _reads(columns).astype(kernel.dtype)
    bands = jnp.einsum("ijco,uqj->iucqo", kernel, reads)
    return bands.reshape(-1, columns.output * kernel.shape[-1])


def _reads(axis: Axis) -> np.ndarray:
    """Returns True where output `q` reads input `u` through tap `j`: `[size, output, kernel]`."""
    inputs, outputs, taps = np.ogrid[: axis.size, : axis.output, : axis.kernel]
    return inputs == axis.stride * outputs + axis.dilation * taps - axis.low
