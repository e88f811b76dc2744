"""XLA's own dense convolution, a YNNPACK kernel on a CPU, around two of its weak spots."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.cpu import views
from cnn_jax.ops.window import Axis

# Numbers of outputs that leave vectors half empty or all but one core idle; more are fine, and
# between the two there is nothing to gain.
_BAD_OUTPUTS = (range(1, 16), range(48, 81))
# With fewer inputs the kernel divides its work in another way.
_MANY_INPUTS = 16


def convolution(
    x: jax.Array, kernel: jax.Array, rows: Axis, columns: Axis, precision: lax.PrecisionLike
) -> jax.Array:
    """`[B, H, W, C]` and `[kh, kw, C, O]` to `[B, H', W', O]`, in float32 at least."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x, kernel = x.astype(wide), kernel.astype(wide)
    if min(rows.low, rows.high, columns.low, columns.high) < 0:  # The kernel gets it wrong.
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
    """Each kernel row as outputs of its own, added up with a shift."""
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
    """With a column more than asked for if there is no padding: that takes up to three times less.

    XLA then leaves the windows to the kernel, where it otherwise lays them out beforehand.
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
