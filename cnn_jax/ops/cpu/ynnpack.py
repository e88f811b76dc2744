"""XLA's dense convolution, a YNNPACK kernel on a CPU, with workarounds for its weak spots."""

import dataclasses

import jax
from jax import lax

from cnn_jax.ops import dtypes
from cnn_jax.ops.cpu import views
from cnn_jax.ops.window import Axis

# Numbers of output channels for which `_by_rows` is faster. With 1 to 15, vectors are half empty;
# with 48 to 80, all cores but one are idle. Between the two ranges, `_by_rows` gains nothing.
_BAD_OUTPUTS = (range(1, 16), range(48, 81))
# Minimum number of input channels for `_by_rows`. With fewer, YNNPACK divides its work differently.
_MANY_INPUTS = 16


def convolution(
    x: jax.Array, kernel: jax.Array, rows: Axis, columns: Axis, precision: lax.PrecisionLike
) -> jax.Array:
    """Convolves `[B, H, W, C]` with `[kh, kw, C, O]` to `[B, H', W', O]`, in float32 or wider."""
    wide = dtypes.at_least_float32(x.dtype)
    x, kernel = x.astype(wide), kernel.astype(wide)
    if min(rows.low, rows.high, columns.low, columns.high) < 0:  # YNNPACK gives wrong results.
        x = views.pad(x, (rows.low, rows.high), (columns.low, columns.high))
        rows = dataclasses.replace(rows, size=x.shape[1], low=0, high=0)
        columns = dataclasses.replace(columns, size=x.shape[2], low=0, high=0)
    bad = any(kernel.shape[3] in outputs for outputs in _BAD_OUTPUTS)
    if bad and kernel.shape[2] >= _MANY_INPUTS and rows.stride == 1 < rows.kernel:
        return _by_rows(x, kernel, rows, columns, precision)
    return _padded(x, kernel, rows, columns, precision)


def _by_rows(
    x: jax.Array, kernel: jax.Array, rows: Axis, columns: Axis, precision: lax.PrecisionLike
) -> jax.Array:
    """Convolves with each kernel row as separate output channels, then adds them up shifted."""
    *_, channels, outputs = kernel.shape
    kernel = kernel.transpose(1, 2, 0, 3).reshape(1, columns.kernel, channels, -1)
    single = Axis(rows.size, 1, 1, 1, rows.low, rows.high)
    y = _padded(x, kernel, single, columns, precision)
    return sum(
        (
            views.tap_rows(y[..., i * outputs : (i + 1) * outputs], rows, i)
            for i in range(1, rows.kernel)
        ),
        start=views.tap_rows(y[..., :outputs], rows, 0),
    )


def _padded(
    x: jax.Array, kernel: jax.Array, rows: Axis, columns: Axis, precision: lax.PrecisionLike
) -> jax.Array:
    """Convolves, with an extra output column if there is no padding.

    Without padding, XLA copies the windows (im2col) before it calls the kernel, which takes up to
    three times longer. The padding of the extra column avoids this; the column is then dropped.
    """
    if any((rows.low, rows.high, columns.low, columns.high)):
        return _convolution(x, kernel, rows, columns, precision)
    more = dataclasses.replace(columns, high=columns.stride)
    return _convolution(x, kernel, rows, more, precision)[:, :, : columns.output]


def _convolution(
    x: jax.Array, kernel: jax.Array, rows: Axis, columns: Axis, precision: lax.PrecisionLike
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (rows.stride, columns.stride),
        ((rows.low, rows.high), (columns.low, columns.high)),
        rhs_dilation=(rows.dilation, columns.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
