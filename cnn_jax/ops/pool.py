"""Maximum and average pooling over the two spatial axes of `[B, H, W, C]`, fast on a CPU too."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from cnn_jax.ops import primitive
from cnn_jax.ops.cpu import pool as cpu
from cnn_jax.ops.window import Axis

Pair = int | tuple[int, int]

# Larger windows, such as a whole image, are left to XLA: one view for each tap would be too many.
_MOST_TAPS = 25


def max_pool(
    x: jax.Array, window: Pair, stride: Pair | None = None, padding: Pair = 0
) -> jax.Array:
    """The largest value in each window; the gradient goes to the first pixel that has it.

    Args:
      x: `[B, H, W, C]`.
      window: height and width in pixels, or one number for both.
      stride: step between windows, `window` when not given; smaller than the window, they overlap.
      padding: pixels of minus infinity on each side.

    Returns:
      `[B, (H + 2 padding - window) // stride + 1, ..., C]`.
    """
    rows, columns = _axes(x, window, stride, padding)
    if not _covers(x, rows, columns):
        return _reference_maximum(x, rows=rows, columns=columns)
    return _maximum.bind(x, rows=rows, columns=columns)


def avg_pool(
    x: jax.Array, window: Pair, stride: Pair | None = None, padding: Pair = 0
) -> jax.Array:
    """The mean of each window; padding counts as zeros, in the sum and in the number of pixels.

    Args and shape as in `max_pool`.
    """
    rows, columns = _axes(x, window, stride, padding)
    if _covers(x, rows, columns):
        total = _total.bind(x, rows=rows, columns=columns)
    else:
        total = _reference_total(x, rows=rows, columns=columns)
    return total / (rows.kernel * columns.kernel)


def _axes(x: jax.Array, window: Pair, stride: Pair | None, padding: Pair) -> tuple[Axis, Axis]:
    sizes, windows, paddings = x.shape[1:3], _pair(window), _pair(padding)
    strides = windows if stride is None else _pair(stride)
    rows, columns = (
        Axis(sizes[i], windows[i], strides[i], 1, paddings[i], paddings[i]) for i in range(2)
    )
    return rows, columns


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _covers(x: jax.Array, rows: Axis, columns: Axis) -> bool:
    few = rows.kernel * columns.kernel <= _MOST_TAPS
    some = x.size > 0 and rows.output > 0 and columns.output > 0
    return few and some and x.dtype in primitive.DTYPES and primitive.is_automatic(x)


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


_maximum = primitive.define("max_pool", _reference_maximum, cpu.maximum, (True,))
_select = primitive.define("max_pool_select", _reference_select, cpu.select, (True, True))
_scatter = primitive.define("max_pool_scatter", _reference_scatter, cpu.scatter, (True, True))
_total = primitive.define("sum_pool", _reference_total, cpu.total, (True,))
_spread = primitive.define("sum_pool_spread", _reference_spread, cpu.spread, (True,))


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
