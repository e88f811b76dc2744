"""Calls of the native kernels for maximum pooling and its gradient."""

import jax

from cnn_jax.ops.native import geometry, library
from cnn_jax.ops.window import Axis


def supports(*operands: jax.Array, rows: Axis, columns: Axis) -> bool:
    """Returns True if kernels support the dtypes of the operands. All windows are supported."""
    del rows, columns
    return library.has("MaxPool", *operands)


def maximum(x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """Returns the maximum of each window: `[B, H, W, C]` to `[B, H', W', C]`."""
    shape = (x.shape[0], rows.output, columns.output, x.shape[-1])
    return _call("MaxPool", shape, x, rows=rows, columns=columns)


def scatter(dy: jax.Array, x: jax.Array, *, rows: Axis, columns: Axis) -> jax.Array:
    """Adds the cotangent of each window at its first maximum.

    Args:
      dy: cotangent `[B, H', W', C]`.
      x: images `[B, H, W, C]`.
      rows: vertical axis.
      columns: horizontal axis.

    Returns:
      `[B, H, W, C]`.
    """
    return _call("MaxPoolGradient", x.shape, dy, x, rows=rows, columns=columns)


def _call(
    name: str, shape: tuple[int, ...], *operands: jax.Array, rows: Axis, columns: Axis
) -> jax.Array:
    dtype = operands[0].dtype
    call = library.call(name, dtype, jax.ShapeDtypeStruct(shape, dtype))
    return call(*operands, rows=geometry.numbers(rows), columns=geometry.numbers(columns))
