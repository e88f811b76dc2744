"""Max-pooling and its gradient by native kernels."""

import jax

from cnn_jax.ops.native import geometry, library
from cnn_jax.ops.window import Axis


def covers(*operands: jax.Array, rows: Axis, columns: Axis) -> bool:
    """Whether there is a kernel for these operands; any window has one."""
    del rows, columns
    return library.has("MaxPool", *operands)


def maximum(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """The largest of each window: `[B, H, W, C]` to `[B, H', W', C]`."""
    shape = (x.shape[0], rows.output, columns.output, x.shape[-1])
    return _call("MaxPool", shape, x, rows=rows, columns=columns)


def scatter(dy: jax.Array, x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """`dy` `[B, H', W', C]` added where `x` `[B, H, W, C]` has each window's first maximum."""
    return _call("MaxPoolGradient", x.shape, dy, x, rows=rows, columns=columns)


def _call(
    name: str, shape: tuple[int, ...], *operands: jax.Array, rows: Axis, columns: Axis
) -> jax.Array:
    dtype = operands[0].dtype
    call = library.call(name, dtype, jax.ShapeDtypeStruct(shape, dtype))
    return call(*operands, rows=geometry.numbers(rows), columns=geometry.numbers(columns))
