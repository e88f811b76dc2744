"""Maximum and average pooling of `[B, H, W, C]` over windows, all pixels or channels.

Pooling over windows is built from primitives with their own lowering on a CPU. Maximum pooling has
`_maximum`, its tangent `_select` and the transpose of the tangent, `_scatter`. Average pooling has
`_window_sum` and its transpose.

The reference implementations are used on other platforms, for windows of more than 25 pixels, on
meshes with Explicit axes, and in a `shard_map`. In reduced precision and at minus infinity, the
following holds. All else holds in both implementations.

- **Means of 16-bit images** are summed in float32 and rounded at the sum and at the division, in
  both implementations. So are their gradients.
- **Gradients of maxima in 16 bits**: where windows overlap, the primitives add the cotangents of a
  pixel in float32 and round once. The reference adds in 16 bits and may round at each addition.
- **Windows of minus infinity only**: in the primitives, the gradient and the tangent are those of
  the first pixel. In the reference, the gradient goes to the first place of the window, and is lost
  if that is padding. The tangent is 0, the value from which `jax.lax` starts its reduction.
- **Tangents of float64 maxima on a GPU**: `jax.lax` of JAX 0.10 packs value and tangent into 64
  bits. Both keep 20 bits of their mantissa, and JAX warns. JAX 0.12 packs nothing. Gradients, and
  tangents of other dtypes, are exact.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax import errors
from cnn_jax.ops import dtypes, primitive, rules
from cnn_jax.ops.cpu import pool as cpu
from cnn_jax.ops.native import pool as native
from cnn_jax.ops.window import Axis, Padding, Pair, paddings, pair
from cnn_jax.runtime.jax_internals import ad

# Windows with more taps use `jax.lax`: the CPU lowering makes one view of the images for each tap.
_MOST_TAPS = 25
_NO_PADDING = [(0, 0), (0, 0)]


def max_pool(
    x: jax.Array,
    window: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """Returns the maximum of each window; the gradient goes to the first pixel that has it.

    The module states what holds for 16-bit images, minus infinity, and platforms other than CPUs.

    Args:
      x: `[B, H, W, C]`. As in Flax, there may be any number of batch axes, or none.
      window: height and width in pixels, or one number for both.
      stride: vertical and horizontal stride, or one number for both; `window` by default. Windows
        overlap if the stride is smaller than the window.
      padding: pixels of minus infinity on each side: one number, one for each axis, or a pair
        (before, after) for each axis. Or 'VALID', 'SAME' or 'HALF'; see `ops.window`.
      ceil_mode: if True, windows may extend beyond the padding at the bottom and at the right, so
        that they cover every pixel. Caffe always does this, torch with its option `ceil_mode`.

    Returns:
      `[B, (H + 2 padding - window) // stride + 1, ..., C]`. With `ceil_mode` the quotient is
      rounded up, and windows that start after the last pixel are dropped. Without padding, Caffe
      keeps these windows; they only exist if the stride exceeds the window.

    Raises:
      UserError: the window is larger than the padded image, or an argument is not allowed.
    """
    images = as_batch(x)
    rows, columns = axes(images, window, stride, padding, ceil_mode)
    if _supports(images, rows, columns):
        y = _maximum.bind(images, rows=rows, columns=columns)
    else:
        y = _reference_maximum(images, rows=rows, columns=columns)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def avg_pool(
    x: jax.Array,
    window: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """Returns the mean of each window: the sum of its pixels divided by their number.

    The pixels of 16-bit images are summed in float32.

    Args:
      x: see `max_pool`.
      window: see `max_pool`.
      stride: see `max_pool`.
      padding: pixels of zeros on each side; see `max_pool`.
      ceil_mode: see `max_pool`. Pixels beyond the padding do not count, as in Caffe and torch.
      count_include_pad: if True, the number of pixels includes the padding. Caffe always includes
        it, torch and Flax include it by default, and TensorFlow's 'SAME' never does.

    Returns:
      Means, in the shape that `max_pool` returns.

    Raises:
      UserError: see `max_pool`. Or `count_include_pad` is False and the padding is at least as
        large as the window, so that a window would have no pixels.
    """
    images = as_batch(x)
    rows, columns = axes(images, window, stride, padding, ceil_mode)
    if _supports(images, rows, columns):
        total = _window_sum.bind(images, rows=rows, columns=columns)
    else:
        total = _reference_window_sum(images, rows=rows, columns=columns)
    ends = _geometry(images, window, stride, padding)[2]
    if not ceil_mode and (count_include_pad or ends == _NO_PADDING):
        y = total / (rows.kernel * columns.kernel)
    else:
        counted = ends if count_include_pad else _NO_PADDING
        pixels = np.outer(_counts(rows, counted[0]), _counts(columns, counted[1]))
        y = total / jnp.asarray(pixels[None, ..., None], total.dtype)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Returns the mean of all pixels, `[..., H, W, C]` to `[..., C]`, in float32 or wider.

    Source: Lin et al. 2014 (arXiv:1312.4400), section 3.2.

    Raises:
      UserError: `x` has fewer than three axes.
    """
    _require_image(x)
    return jnp.mean(x, axis=(-3, -2))  # jnp.mean sums 16-bit inputs in float32.


def channel_max_pool(x: jax.Array, window: int, stride: int | None = None) -> jax.Array:
    """Returns the maximum of each `window` neighbouring channels, `[..., C]` to `[..., C']`.

    `C'` is `(C - window) / stride + 1`. With `stride == window`, the default, this is the maxout of
    Goodfellow et al. 2013 (arXiv:1302.4389), section 3. If several channels have the maximum, the
    gradient goes to the first.

    Raises:
      UserError: the windows do not cover all channels.
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
        raise errors.UserError(
            f"windows of {window} channels with stride {step} do not cover {channels} channels;"
            " required: 1 <= stride <= window <= channels, and (channels - window) % stride == 0"
        )
    # One axis is added at a time, because other reshapes fail if the images have Explicit sharding.
    pixels = x.reshape(*x.shape[:-1][:1], math.prod(x.shape[1:-1]), channels)
    y = pool(pixels[..., None], (1, window), (1, step))[..., 0]
    return y.reshape(*x.shape[:-1], y.shape[-1])


def as_batch(x: jax.Array) -> jax.Array:
    """Returns `[..., H, W, C]` with its leading axes merged into one: `[B, H, W, C]`.

    Raises:
      UserError: `x` has fewer than three axes.
    """
    _require_image(x)
    return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])


def _require_image(x: jax.Array) -> None:
    if x.ndim < 3:
        raise errors.UserError(
            f"pooling takes images [B, H, W, C], got an array of shape {x.shape}; give a grey image"
            " [H, W] its channel axis with x[..., None]"
        )


def axes(
    x: jax.Array, window: Pair, stride: Pair | None, padding: Padding, ceil_mode: bool = False
) -> tuple[Axis, Axis]:
    """Returns the geometry of the rows and of the columns.

    Args and raised errors are those of `max_pool`; `x` has one batch axis.
    """
    windows, strides, ends = _geometry(x, window, stride, padding)
    sizes = x.shape[1:3]
    rows, columns = (Axis(sizes[i], windows[i], strides[i], 1, *ends[i]) for i in range(2))
    if ceil_mode:
        rows, columns = _rounded_up(rows), _rounded_up(columns)
    if rows.output < 1 or columns.output < 1:
        raise errors.UserError(
            f"a window of {windows} pixels is larger than an image of {tuple(sizes)} with"
            f" padding {padding!r}; use larger images or a smaller window"
        )
    return rows, columns


def _geometry(
    x: jax.Array, window: Pair, stride: Pair | None, padding: Padding
) -> tuple[tuple[int, int], tuple[int, int], list[tuple[int, int]]]:
    """Returns the window, the stride and the padding (before, after) of each axis."""
    windows = pair("window", window)
    strides = windows if stride is None else pair("stride", stride)
    return windows, strides, paddings(padding, x.shape[1:3], windows, strides)


def _rounded_up(axis: Axis) -> Axis:
    """Returns `axis` with the padding at its end that gives the outputs of `ceil_mode`."""
    rest = axis.size + axis.low + axis.high - axis.kernel
    within = -(-(axis.size + axis.low) // axis.stride)  # Windows that start before the image ends.
    output = min(-(-rest // axis.stride) + 1, within)
    end = (output - 1) * axis.stride + axis.kernel - axis.low
    return dataclasses.replace(axis, high=max(end - axis.size, 0))


def _counts(axis: Axis, padding: tuple[int, int]) -> np.ndarray:
    """Returns the number of pixels of each window in the image or its `padding`: `[H']`."""
    before, after = padding
    if before == after == 0 and max(axis.low, axis.high) >= axis.kernel:
        raise errors.UserError(
            "with count_include_pad=False the padding must be smaller than the window; got padding"
            f" {max(axis.low, axis.high)} and a window of {axis.kernel} pixels"
        )
    starts = np.arange(axis.output) * axis.stride - axis.low
    ends = np.minimum(starts + axis.kernel, axis.size + after)
    return ends - np.maximum(starts, -before)


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
    wide = dtypes.widen(x) if x.dtype in primitive.DTYPES else x
    return _reduce_window(wide, 0.0, lax.add, (rows, columns)).astype(x.dtype)


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
rules.define_linear_series(_maximum, tangent=_select)
for _linear in (_select, _scatter, _window_sum, _window_sum_transpose):
    rules.define_linear_series(_linear)
ad.deflinear2(_window_sum, lambda dy, _, **static: [_window_sum_transpose.bind(dy, **static)])
ad.deflinear2(_window_sum_transpose, lambda x, _, **static: [_window_sum.bind(x, **static)])
