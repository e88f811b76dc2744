"""Maximum and average pooling of `[B, H, W, C]` over windows, all pixels or channels.

Pooling over windows is built from primitives with their own lowering on a CPU. Maximum pooling has
`_maximum`, its tangent `_select` and the transpose of the tangent, `_scatter`. Average pooling has
`_window_sum` and its transpose.
"""

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

# Windows with more taps use `jax.lax`: the CPU lowering makes one view of the images for each tap.
_MOST_TAPS = 25


def max_pool(
    x: jax.Array,
    window: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """Returns the maximum of each window; the gradient goes to the first pixel that has it.

    Args:
      x: `[B, H, W, C]`.
      window: height and width in pixels, or one number for both.
      stride: vertical and horizontal stride, or one number for both; `window` by default. Windows
        overlap if the stride is smaller than the window.
      padding: pixels of minus infinity on each side, or 'HALF' or 'SAME'; see `ops.window`.
      ceil_mode: if True, windows may extend beyond the padding at the bottom and at the right, so
        that they cover every pixel. Caffe always does this, torch with its option `ceil_mode`.

    Returns:
      `[B, (H + 2 padding - window) // stride + 1, ..., C]`. With `ceil_mode` the quotient is
      rounded up, and windows that start after the last pixel are dropped. Without padding, Caffe
      keeps these windows; they only exist if the stride exceeds the window.

    Raises:
      ValueError: the window is larger than the padded image, or `padding` is an unknown name.
    """
    rows, columns = axes(x, window, stride, padding, ceil_mode)
    if not _supports(x, rows, columns):
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
    """Returns the mean of each window: the sum of its pixels divided by their number.

    Args:
      x: `[B, H, W, C]`.
      window: see `max_pool`.
      stride: see `max_pool`.
      padding: pixels of zeros on each side.
      ceil_mode: see `max_pool`. Pixels beyond the padding do not count, as in Caffe and torch.
      count_include_pad: if True, the number of pixels includes the padding. Caffe always includes
        it, torch includes it by default, and TensorFlow's 'SAME' never does.

    Returns:
      Means, in the shape that `max_pool` returns.

    Raises:
      ValueError: the window is larger than the padded image. Or `count_include_pad` is False and
        the padding is at least as large as the window, so that a window would have no pixels.
    """
    rows, columns = axes(x, window, stride, padding, ceil_mode)
    if _supports(x, rows, columns):
        total = _window_sum.bind(x, rows=rows, columns=columns)
    else:
        total = _reference_window_sum(x, rows=rows, columns=columns)
    amounts = pair(padding)
    if not ceil_mode and (count_include_pad or amounts == (0, 0)):
        return total / (rows.kernel * columns.kernel)
    counted = amounts if count_include_pad else (0, 0)
    pixels = np.outer(_counts(rows, counted[0]), _counts(columns, counted[1]))
    return total / jnp.asarray(pixels[..., None])


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Returns the mean of all pixels, `[B, H, W, C]` to `[B, C]`, summed in float32 or wider.

    Source: Lin et al. 2014 (arXiv:1312.4400), section 3.2.
    """
    return jnp.mean(x, axis=(1, 2))  # jnp.mean sums 16-bit inputs in float32.


def channel_max_pool(x: jax.Array, window: int, stride: int | None = None) -> jax.Array:
    """Returns the maximum of each `window` neighbouring channels, `[B, ..., C]` to `[B, ..., C']`.

    `C'` is `(C - window) / stride + 1`. With `stride == window`, the default, this is the maxout of
    Goodfellow et al. 2013 (arXiv:1302.4389), section 3. If several channels have the maximum, the
    gradient goes to the first.

    Raises:
      ValueError: the windows do not cover all channels.
    """
    return _over_channels(max_pool, x, window, stride)


def channel_avg_pool(x: jax.Array, window: int, stride: int | None = None) -> jax.Array:
    """Returns the mean of each `window` neighbouring channels; see `channel_max_pool`."""
    return _over_channels(avg_pool, x, window, stride)


def _over_channels(
    pool: Callable[..., jax.Array], x: jax.Array, window: int, stride: int | None
) -> jax.Array:
    """Pools the channels of `x` as the columns of images `[B, pixels, C, 1]`."""
    step, channels = window if stride is None else stride, x.shape[-1]
    if not 1 <= window <= channels or not 1 <= step <= window or (channels - window) % step:
        raise ValueError(
            f"windows of {window} channels with stride {step} do not cover {channels} channels;"
            " required: 1 <= stride <= window <= channels, and (channels - window) % stride == 0"
        )
    images = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), channels, 1)
    y = pool(images, (1, window), (1, step))
    return y.reshape(*x.shape[:-1], y.shape[2])


def axes(
    x: jax.Array, window: Pair, stride: Pair | None, padding: Padding, ceil_mode: bool = False
) -> tuple[Axis, Axis]:
    """Returns the geometry of the rows and of the columns.

    Args and raised errors are those of `max_pool`.
    """
    sizes, windows = x.shape[1:3], pair(window)
    strides = windows if stride is None else pair(stride)
    ends = paddings(padding, sizes, windows, strides)
    rows, columns = (Axis(sizes[i], windows[i], strides[i], 1, *ends[i]) for i in range(2))
    if ceil_mode:
        rows, columns = _rounded_up(rows), _rounded_up(columns)
    if rows.output < 1 or columns.output < 1:
        raise ValueError(
            f"a window of {windows} pixels is larger than an image of {tuple(sizes)} with"
            f" padding {padding!r}; use larger images or a smaller window"
        )
    return rows, columns


def _rounded_up(axis: Axis) -> Axis:
    """Returns `axis` with the padding at its end that gives the outputs of `ceil_mode`."""
    rest = axis.size + axis.low + axis.high - axis.kernel
    within = -(-(axis.size + axis.low) // axis.stride)  # Windows that start before the image ends.
    output = min(-(-rest // axis.stride) + 1, within)
    end = (output - 1) * axis.stride + axis.kernel - axis.low
    return dataclasses.replace(axis, high=max(end - axis.size, 0))


def _counts(axis: Axis, padding: int) -> np.ndarray:
    """Returns the number of pixels of each window in the image or its `padding`: `[H']`."""
    if padding == 0 and max(axis.low, axis.high) >= axis.kernel:
        raise ValueError(
            "with count_include_pad=False the padding must be smaller than the window; got padding"
            f" {axis.low} and a window of {axis.kernel} pixels"
        )
    starts = np.arange(axis.output) * axis.stride - axis.low
    ends = np.minimum(starts + axis.kernel, axis.size + padding)
    return ends - np.maximum(starts, -padding)


def _supports(x: jax.Array, rows: Axis, columns: Axis) -> bool:
    few = rows.kernel * columns.kernel <= _MOST_TAPS
    return few and x.size > 0 and x.dtype in primitive.DTYPES and primitive.is_auto_sharded(x)


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


def _reference_window_sum(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    return _reduce_window(x, 0.0, lax.add, (rows, columns))


def _reference_window_sum_transpose(dy: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    shape = (dy.shape[0], rows.size, columns.size, dy.shape[-1])
    x = jax.ShapeDtypeStruct(shape, dy.dtype)
    return jax.linear_transpose(lambda x: _reference_window_sum(x, rows=rows, columns=columns), x)(
        dy
    )[0]


_maximum = primitive.define(
    "max_pool",
    _reference_maximum,
    cpu.maximum,
    primitive.Native(native.supports, native.maximum),
    has_batch=(True,),
)
_select = primitive.define("max_pool_select", _reference_select, cpu.select, has_batch=(True, True))
_scatter = primitive.define(
    "max_pool_scatter",
    _reference_scatter,
    cpu.scatter,
    primitive.Native(native.supports, native.scatter),
    has_batch=(True, True),
)
_window_sum = primitive.define("sum_pool", _reference_window_sum, cpu.window_sum, has_batch=(True,))
_window_sum_transpose = primitive.define(
    "sum_pool_transpose",
    _reference_window_sum_transpose,
    cpu.window_sum_transpose,
    has_batch=(True,),
)


def _transposed_by(transpose: Any) -> Any:
    """Returns the transpose rule of a map that is linear in its first operand only.

    Args:
      transpose: primitive of the transposed map. It takes the cotangent and the other operands.
    """

    def rule(cotangent: Any, _: Any, *others: jax.Array, **static: Any) -> tuple[Any, ...]:
        return (transpose.bind(cotangent, *others, **static), *(None for _ in others))

    return rule


ad.defjvp(_maximum, _select.bind)
# The position of the maximum is piecewise constant in x, so the tangent with respect to x is zero.
ad.defjvp(_select, lambda tangent, _, x, **static: _select.bind(tangent, x, **static), None)
ad.defjvp(_scatter, lambda tangent, _, x, **static: _scatter.bind(tangent, x, **static), None)
ad.primitive_transposes[_select] = _transposed_by(_scatter)
ad.primitive_transposes[_scatter] = _transposed_by(_select)
ad.deflinear2(_window_sum, lambda dy, _, **static: [_window_sum_transpose.bind(dy, **static)])
ad.deflinear2(_window_sum_transpose, lambda x, _, **static: [_window_sum.bind(x, **static)])
