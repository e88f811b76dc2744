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
    return short and rows.stride == columns.stride == 1 and rows.kernel * columns.kernel > 1


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
    # What each part of an output row sends back through each kernel row: `[B, H', parts, kh w C]`.
    flat = dy.reshape(*dy.shape[:2], parts, -1)
    back = matmul.over_channels(flat, _bands(kernel, part).T, window.precision)
    back = back.reshape(*dy.shape[:2], parts, rows.kernel, part.size, -1)
    terms = [
        _place(
            back[:, :, p, i],
            (i * rows.dilation - rows.low, rows.size),
            (p * part.output - columns.low, columns.size),
        )
        for p in range(parts)
        for i in range(rows.kernel)
    ]
    return functools.reduce(jnp.add, terms)


def _place(x: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
    """`[B, h, w, C]` in zeros `[B, H, W, C]`, from `first` on, for axes `(first, size)`."""
    widths = [
        (first, size - first - length, 0)
        for (first, size), length in zip((rows, columns), x.shape[1:3], strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *widths, (0, 0, 0)))


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
