"""Pooling of `[B, H, W, C]`, over windows, all pixels or channels; fast on a CPU too."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from cnn_jax.ops import primitive
from cnn_jax.ops.cpu import pool as cpu
from cnn_jax.ops.native import pool as native
from cnn_jax.ops.window import Axis, Padding, Pair, paddings, pair

# Larger windows, such as a whole image, are left to XLA: one view for each tap would be too many.
_MOST_TAPS = 25


def max_pool(
    x: jax.Array,
    window: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """The largest value in each window; the gradient goes to the first pixel that has it.

    Args:
      x: `[B, H, W, C]`.
      window: height and width in pixels, or one number for both.
      stride: step between windows, `window` when not given; smaller than the window, they overlap.
      padding: pixels of minus infinity on each side, or 'HALF' or 'SAME', see `ops.window`.
      ceil_mode: whether windows may reach beyond the padding at the bottom and at the right, so
        that no pixel is left out, as in Caffe and in torch with this option.

    Returns:
      `[B, (H + 2 padding - window) // stride + 1, ..., C]`; with `ceil_mode` the quotient is
      rounded up instead, and windows that start beyond the image are dropped. Where there is no
      padding, Caffe keeps these, but then there are none unless the stride exceeds the window.

    Raises:
      ValueError: the window is larger than the padded image, so that there would be no result; or
        a padding of another name.
    """
    rows, columns = axes(x, window, stride, padding, ceil_mode)
    if not _covers(x, rows, columns):
        return _reference_maximum(x, rows=rows, columns=columns)
    return _maximum.bind(x, rows=rows, columns=columns)


def avg_pool(
    x: jax.Array,
    window: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window; padding counts as zeros, in the sum and in the number of pixels.

    Args:
      x: `[B, H, W, C]`.
      window: see `max_pool`.
      stride: see `max_pool`.
      padding: pixels of zeros on each side.
      ceil_mode: see `max_pool`; what it adds beyond the padding never counts, as in Caffe and
        torch.
      count_include_pad: whether padding counts in the number of pixels: it always does in Caffe,
        by default in torch, and never in TensorFlow's 'SAME'.

    Returns:
      The shape of `max_pool`.

    Raises:
      ValueError: the window is larger than the padded image; or padding does not count and is as
        large as the window, so that there would be means of no pixels.
    """
    rows, columns = axes(x, window, stride, padding, ceil_mode)
    if _covers(x, rows, columns):
        total = _total.bind(x, rows=rows, columns=columns)
    else:
        total = _reference_total(x, rows=rows, columns=columns)
    amounts = pair(padding)
    if not ceil_mode and (count_include_pad or amounts == (0, 0)):
        return total / (rows.kernel * columns.kernel)
    counted = amounts if count_include_pad else (0, 0)
    pixels = np.outer(_counts(rows, counted[0]), _counts(columns, counted[1]))
    return total / jnp.asarray(pixels[..., None])


def global_avg_pool(x: jax.Array) -> jax.Array:
    """The mean of all pixels, `[B, H, W, C]` to `[B, C]`, summed in float32 at least.

    Lin et al. 2014 (arXiv:1312.4400), section 3.2.
    """
    return jnp.mean(x, axis=(1, 2))  # which sums 16 bits in float32


def channel_max_pool(x: jax.Array, window: int, stride: int | None = None) -> jax.Array:
    """The largest of each `window` neighbouring channels, `[B, ..., C]` to `[B, ..., C']`.

    With `stride == window`, the default, this is the maxout of Goodfellow et al. 2013
    (arXiv:1302.4389), section 3. `C'` is `(C - window) / stride + 1`; in ties the gradient goes to
    the first.

    Raises:
      ValueError: the windows do not cover all channels.
    """
    return _over_channels(max_pool, x, window, stride)


def channel_avg_pool(x: jax.Array, window: int, stride: int | None = None) -> jax.Array:
    """The mean of each `window` neighbouring channels; all else as in `channel_max_pool`."""
    return _over_channels(avg_pool, x, window, stride)


def _over_channels(
    pool: Callable[..., jax.Array], x: jax.Array, window: int, stride: int | None
) -> jax.Array:
    """Pooling of images `[B, ..., C, 1]`: their channels are what neighbours."""
    step, channels = window if stride is None else stride, x.shape[-1]
    if not 1 <= window <= channels or not 1 <= step <= window or (channels - window) % step:
        raise ValueError(
            f"windows of {window} channels with stride {step} do not cover {channels} channels"
        )
    images = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), channels, 1)
    y = pool(images, (1, window), (1, step))
    return y.reshape(*x.shape[:-1], y.shape[2])


def axes(
    x: jax.Array, window: Pair, stride: Pair | None, padding: Padding, ceil_mode: bool = False
) -> tuple[Axis, Axis]:
    """The geometry of the rows and of the columns; see `max_pool`."""
    sizes, windows = x.shape[1:3], pair(window)
    strides = windows if stride is None else pair(stride)
    ends = paddings(padding, sizes, windows, strides)
    rows, columns = (Axis(sizes[i], windows[i], strides[i], 1, *ends[i]) for i in range(2))
    if ceil_mode:
        rows, columns = _rounded_up(rows), _rounded_up(columns)
    if rows.output < 1 or columns.output < 1:
        raise ValueError(
            f"a window of {windows} pixels is larger than an image of {tuple(sizes)} with"
            f" padding {padding!r}"
        )
    return rows, columns


def _rounded_up(axis: Axis) -> Axis:
    """The same with as much more, or less, at the end that the windows reach it."""
    rest = axis.size + axis.low + axis.high - axis.kernel
    within = -(-(axis.size + axis.low) // axis.stride)  # windows that start before the image ends
    output = min(-(-rest // axis.stride) + 1, within)
    end = (output - 1) * axis.stride + axis.kernel - axis.low
    return dataclasses.replace(axis, high=max(end - axis.size, 0))


def _counts(axis: Axis, padding: int) -> np.ndarray:
    """Of each window, how many pixels are of the image or of the `padding` beside it: `[H']`."""
    if padding == 0 and max(axis.low, axis.high) >= axis.kernel:
        raise ValueError(
            f"padding {axis.low} that does not count has to be smaller than the window of"
            f" {axis.kernel} pixels"
        )
    starts = np.arange(axis.output) * axis.stride - axis.low
    ends = np.minimum(starts + axis.kernel, axis.size + padding)
    return ends - np.maximum(starts, -padding)


def _covers(x: jax.Array, rows: Axis, columns: Axis) -> bool:
    few = rows.kernel * columns.kernel <= _MOST_TAPS
    return few and x.size > 0 and x.dtype in primitive.DTYPES and primitive.is_automatic(x)


def _reduce_window(x: jax.Array, initial: float, operation: Any, axes: tuple[Axis, Axis]) -> Any:
    return lax.reduce_window(
        x,
        initial,
        operation,
        window_dimensions=(1, *(axis.kernel for axis in axes), 1),
        window_strides=(1, *(axis.stride for axis in axes), 1),
        padding=((0, 0), *((axis.low, axis.high) for axis in axes), (0, 0)),
    )


def _reference_maximum(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    return _reduce_window(x, -jnp.inf, lax.max, (rows, columns))


def _reference_select(tangent: jax.Array, x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    return jax.jvp(lambda x: _reference_maximum(x, rows=rows, columns=columns), (x,), (tangent,))[1]


def _reference_scatter(dy: jax.Array, x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    _, pull_back = jax.vjp(lambda x: _reference_maximum(x, rows=rows, columns=columns), x)
    return pull_back(dy)[0]


def _reference_total(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    return _reduce_window(x, 0.0, lax.add, (rows, columns))


def _reference_spread(dy: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    shape = (dy.shape[0], rows.size, columns.size, dy.shape[-1])
    x = jax.ShapeDtypeStruct(shape, dy.dtype)
    return jax.linear_transpose(lambda x: _reference_total(x, rows=rows, columns=columns), x)(dy)[0]


_maximum = primitive.define(
    "max_pool",
    _reference_maximum,
    cpu.maximum,
    primitive.Native(native.covers, native.maximum),
    images=(True,),
)
_select = primitive.define("max_pool_select", _reference_select, cpu.select, images=(True, True))
_scatter = primitive.define(
    "max_pool_scatter",
    _reference_scatter,
    cpu.scatter,
    primitive.Native(native.covers, native.scatter),
    images=(True, True),
)
_total = primitive.define("sum_pool", _reference_total, cpu.total, images=(True,))
_spread = primitive.define("sum_pool_spread", _reference_spread, cpu.spread, images=(True,))


def _transposed_by(transpose: Any) -> Any:
    """The rule of a map that is linear in its first operand, whose transpose takes the others."""

    def rule(cotangent: Any, _: Any, *others: jax.Array, **static: Any) -> tuple[Any, ...]:
        return (transpose.bind(cotangent, *others, **static), *(None for _ in others))

    return rule


ad.defjvp(_maximum, _select.bind)
# Where the maximum is does not change with a small change of x, so that x has no rule.
ad.defjvp(_select, lambda tangent, _, x, **static: _select.bind(tangent, x, **static), None)
ad.defjvp(_scatter, lambda tangent, _, x, **static: _scatter.bind(tangent, x, **static), None)
ad.primitive_transposes[_select] = _transposed_by(_scatter)
ad.primitive_transposes[_scatter] = _transposed_by(_select)
ad.deflinear2(_total, lambda dy, _, **static: [_spread.bind(dy, **static)])
ad.deflinear2(_spread, lambda x, _, **static: [_total.bind(x, **static)])
