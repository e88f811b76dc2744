"""Convolutions without groups, by the fastest algorithm for their shapes.

The algorithms are a matrix product for 1x1 kernels, im2col, banded matrices (`banded`), XLA's
convolution (`ynnpack`), one convolution per phase (`phases`), and a product of shifted copies.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.cpu import banded, matmul, phases, views, ynnpack
from cnn_jax.ops.window import Axis, Window

# Outputs with more input channels than this use XLA's convolution rather than banded matrices. For
# gradients, banded matrices are faster with more channels too.
_FEW_CHANNELS = 4
# If a window has at most this many values, im2col is faster than XLA's convolution.
_FEW_VALUES = 32
# If all phases together have at most this many channels, one convolution computes all of them.
_FEW_PHASE_CHANNELS = 64


def output(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes the output: `[B, H, W, C]` and `[kh, kw, C, O]` to `[B, H', W', O]`."""
    rows, columns = window.rows, window.columns
    outputs = kernel.shape[-1]
    if _is_pointwise(rows) and _is_pointwise(columns):
        x = x[:, :: rows.stride, :: columns.stride]
        return matmul.over_channels(x, kernel[0, 0], window.precision)
    if x.shape[-1] <= _FEW_CHANNELS and banded.is_fastest(x.shape[-1], outputs, window):
        return banded.output(x, kernel, window)
    if kernel.size // outputs <= _FEW_VALUES:
        x = views.patches(x, rows, columns)
        return matmul.over_channels(x, kernel.reshape(-1, outputs), window.precision)
    return ynnpack.convolution(x, kernel, rows, columns, window.precision)


def input_gradient(dy: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes the input gradient: `[B, H', W', O]` and `[kh, kw, C, O]` to `[B, H, W, C]`."""
    rows, columns = window.rows, window.columns
    if _is_pointwise(rows) and _is_pointwise(columns):
        dx = matmul.over_channels(dy, kernel[0, 0].T, window.precision)
        return _insert_zeros(dx, rows, columns)
    if banded.is_fastest(kernel.shape[2], kernel.shape[3], window):
        return banded.input_gradient(dy, kernel, window)
    kernel = kernel.swapaxes(2, 3)
    phase_channels = rows.stride * columns.stride * kernel.shape[-1]
    strided = rows.stride > 1 or columns.stride > 1
    undilated = rows.dilation == columns.dilation == 1
    if strided and undilated and phase_channels <= _FEW_PHASE_CHANNELS:
        return _input_gradient_of_all_phases(dy, kernel, window)

    def convolve(taps: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
        return ynnpack.convolution(dy, taps, rows, columns, window.precision)

    return phases.input_gradient(kernel, rows, columns, convolve)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """Computes the kernel gradient: `[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C, O]`."""
    rows, columns = window.rows, window.columns
    if _is_pointwise(rows) and _is_pointwise(columns):
        x = x[:, :: rows.stride, :: columns.stride]
        return matmul.over_pixels(x, dy, window.precision)[None, None]
    if banded.is_fastest(x.shape[-1], dy.shape[-1], window):
        return banded.kernel_gradient(x, dy, window)
    # Values that each of the two remaining algorithms copies for one image.
    patches = rows.kernel * columns.kernel * x.shape[-1] * rows.output * columns.output
    wide = columns.kernel * x.shape[-1] * rows.size * columns.output
    tall = rows.kernel * rows.output * columns.output * dy.shape[-1]
    if patches < wide + tall:
        gradient = matmul.over_pixels(views.patches(x, rows, columns), dy, window.precision)
        return gradient.reshape(rows.kernel, columns.kernel, x.shape[-1], dy.shape[-1])
    return _kernel_gradient_by_shifts(x, dy, window)


def _is_pointwise(axis: Axis) -> bool:
    return axis.kernel == 1 and axis.low == axis.high == 0


def _insert_zeros(dx: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
    """Moves values to the inputs that a strided pointwise convolution reads; the rest is zero."""
    widths = [
        (0, axis.size - axis.stride * (axis.output - 1) - 1, axis.stride - 1)
        for axis in (rows, columns)
    ]
    return lax.pad(dx, jnp.zeros((), dx.dtype), ((0, 0, 0), *widths, (0, 0, 0)))


def _input_gradient_of_all_phases(dy: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes all phases as channels of one convolution with stride 1; see `phases`.

    Args:
      dy: output gradient `[B, H', W', O]`.
      kernel: `[kh, kw, O, C]`.
      window: geometry of the forward convolution.

    Returns:
      Input gradient `[B, H, W, C]`.
    """
    rows, columns = window.rows, window.columns
    counts = [-(-axis.kernel // axis.stride) for axis in (rows, columns)]
    full = [
        (0, count * axis.stride - axis.kernel)
        for count, axis in zip(counts, (rows, columns), strict=True)
    ]
    outputs, channels = kernel.shape[2:]
    taps = jnp.pad(kernel, (*full, (0, 0), (0, 0)))
    taps = taps.reshape(counts[0], rows.stride, counts[1], columns.stride, outputs, channels)
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(*counts, outputs, -1)
    row_axis, column_axis = (
        Axis(
            axis.output,
            count,
            1,
            1,
            count - 1 - axis.first_position,
            axis.first_position + axis.positions - axis.output,
        )
        for count, axis in zip(counts, (rows, columns), strict=True)
    )
    grid = ynnpack.convolution(dy, taps[::-1, ::-1], row_axis, column_axis, window.precision)
    grid = grid.reshape(*grid.shape[:3], rows.stride, columns.stride, channels)
    return phases.interleave(grid.transpose(0, 1, 3, 2, 4, 5), rows, columns)


def _kernel_gradient_by_shifts(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """Multiplies `kw` shifted copies of `x` by `kh` shifted copies of `dy`.

    The product `[kw C, kh O]` is the kernel gradient. It needs `kw + kh` copies; im2col needs
    `kw kh`. With a vertical stride, there is one product for each phase of the rows of `x`.
    """
    rows, columns = window.rows, window.columns
    channels, outputs = x.shape[-1], dy.shape[-1]
    gradient: dict[int, jax.Array] = {}
    for phase in range(rows.stride):
        # For output row h, kernel row i reads row `h + shift` of this phase.
        shifts = {
            i: (i * rows.dilation - rows.low - phase) // rows.stride
            for i in range(rows.kernel)
            if (i * rows.dilation - rows.low - phase) % rows.stride == 0
        }
        if not shifts or phase >= rows.size:
            gradient |= {
                i: jnp.zeros((columns.kernel, channels, outputs), dy.dtype) for i in shifts
            }
            continue
        own = views.pad(x[:, phase :: rows.stride], (0, 0), (columns.low, columns.high))
        wide = views.column_patches(own, columns)
        tall = jnp.concatenate(
            [_shift_rows(dy, shift, own.shape[1]) for shift in shifts.values()], axis=-1
        )
        product = matmul.over_pixels(wide, tall, window.precision)
        product = product.reshape(columns.kernel, channels, len(shifts), outputs)
        gradient |= zip(shifts, product.transpose(2, 0, 1, 3), strict=True)
    return jnp.stack([gradient[i] for i in range(rows.kernel)])


def _shift_rows(x: jax.Array, shift: int, size: int) -> jax.Array:
    """Moves the rows of `[B, H, W, C]` down by `shift`, into `size` rows of zeros."""
    widths = ((0, 0, 0), (shift, size - x.shape[1] - shift, 0), (0, 0, 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), widths)
