"""The convolution and its two gradients by native kernels."""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.native import library
from cnn_jax.ops.window import Axis, Window

# What the kernels' names say of their operands.
_SUFFIXES = {jnp.dtype("float32"): "F32", jnp.dtype("bfloat16"): "BF16"}
# Groups of fewer have kernels of their own.
_FEW_CHANNELS = 16


def covers(first: jax.Array, second: jax.Array, *, window: Window) -> bool:
    """Whether there is a kernel for these operands; any window has one."""
    del window
    suffix = _SUFFIXES.get(first.dtype)
    return first.dtype == second.dtype and suffix is not None and library.has(f"ConvOutput{suffix}")


def output(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """`[B, H, W, C]` and `[kh, kw, C/g, O]` to `[B, H', W', O]`."""
    shape = (x.shape[0], window.rows.output, window.columns.output, kernel.shape[-1])
    inputs = kernel.shape[2]
    return _call("ConvOutput", shape, x, kernel, window, inputs, in_pairs=inputs % 2 == 0)


def input_gradient(dy: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """`[B, H', W', O]` and `[kh, kw, C/g, O]` to `[B, H, W, C]`."""
    channels = kernel.shape[2] * window.groups
    shape = (dy.shape[0], window.rows.size, window.columns.size, channels)
    outputs = dy.shape[-1] // window.groups
    return _call("ConvInputGradient", shape, dy, kernel, window, outputs, in_pairs=outputs % 2 == 0)


def kernel_gradient(x: jax.Array, dy: jax.Array, *, window: Window) -> jax.Array:
    """`[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C/g, O]`."""
    size = window.rows.kernel, window.columns.kernel
    inputs = x.shape[-1] // window.groups
    shape = (*size, inputs, dy.shape[-1])
    return _call("ConvKernelGradient", shape, x, dy, window, inputs, in_pairs=True)


def _call(
    handler: str,
    shape: tuple[int, ...],
    first: jax.Array,
    second: jax.Array,
    window: Window,
    channels: int,
    *,
    in_pairs: bool,
) -> jax.Array:
    """In bfloat16, or, where that does not suit the kernels, in float32.

    A step in bfloat16 takes two numbers, of one pixel or of two images; and small groups, of
    `channels`, have no kernels in it.
    """
    dtype = first.dtype
    suits = in_pairs and (window.groups == 1 or channels >= _FEW_CHANNELS)
    wide = dtype if suits else jnp.dtype("float32")
    call = library.call(handler + _SUFFIXES[wide], jax.ShapeDtypeStruct(shape, wide))
    rows, columns = _numbers(window.rows), _numbers(window.columns)
    result = call(
        first.astype(wide),
        second.astype(wide),
        rows=rows,
        columns=columns,
        groups=np.int64(window.groups),
    )
    return result.astype(dtype)


def _numbers(axis: Axis) -> np.ndarray:
    """As `geometry.h` reads them."""
    numbers = axis.size, axis.kernel, axis.stride, axis.dilation, axis.low, axis.high
    return np.array(numbers, np.int64)
