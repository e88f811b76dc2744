"""The convolution and its two gradients by native kernels."""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.native import geometry, library
from cnn_jax.ops.window import Window

# Smaller groups have kernels in float32 alone.
_FEW_CHANNELS = 16


def covers(first: jax.Array, second: jax.Array, *, window: Window) -> bool:
    """Whether there is a kernel for these operands; any window has one."""
    del window
    return library.has("ConvOutput", first, second)


def output(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """`[B, H, W, C]` and `[kh, kw, C/g, O]` to `[B, H', W', O]`."""
    shape = (x.shape[0], window.rows.output, window.columns.output, kernel.shape[-1])
    if _wants_even(x, kernel.shape[2], window):
        x, kernel = _with_zeros(x, 3), _with_zeros(kernel, 2)
    return _call("ConvOutput", shape, x, kernel, window, kernel.shape[2], kernel.shape[-1])


def input_gradient(dy: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """`[B, H', W', O]` and `[kh, kw, C/g, O]` to `[B, H, W, C]`."""
    channels = kernel.shape[2] * window.groups
    shape = (dy.shape[0], window.rows.size, window.columns.size, channels)
    if _wants_even(dy, dy.shape[-1], window):
        dy, kernel = _with_zeros(dy, 3), _with_zeros(kernel, 3)
    return _call("ConvInputGradient", shape, dy, kernel, window, kernel.shape[2], dy.shape[-1])


def kernel_gradient(x: jax.Array, dy: jax.Array, *, window: Window) -> jax.Array:
    """`[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C/g, O]`."""
    inputs = x.shape[-1] // window.groups
    shape = (window.rows.kernel, window.columns.kernel, inputs, dy.shape[-1])
    return _call("ConvKernelGradient", shape, x, dy, window, inputs, dy.shape[-1])


def _wants_even(images: jax.Array, summed: int, window: Window) -> bool:
    """Whether a channel of zeros lets all steps in bfloat16 take two numbers of a pixel."""
    return images.dtype == jnp.bfloat16 and summed % 2 == 1 and window.groups == 1


def _with_zeros(x: jax.Array, axis: int) -> jax.Array:
    return jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)])


def _call(
    name: str,
    shape: tuple[int, ...],
    first: jax.Array,
    second: jax.Array,
    window: Window,
    inputs: int,
    all_outputs: int,
) -> jax.Array:
    """A kernel that takes a group to have so many inputs, and all groups so many outputs."""
    outputs = all_outputs // window.groups
    # A step in bfloat16 takes two numbers that are summed: of one pixel, or of two images.
    summed = {"ConvOutput": inputs, "ConvInputGradient": outputs}
    suits = summed.get(name, 2) % 2 == 0 and (window.groups == 1 or inputs >= _FEW_CHANNELS)
    dtype = first.dtype if suits else jnp.dtype("float32")
    call = library.call(name, dtype, jax.ShapeDtypeStruct(shape, dtype))
    result = call(
        first.astype(dtype),
        second.astype(dtype),
        rows=geometry.numbers(window.rows),
        columns=geometry.numbers(window.columns),
        groups=np.int64(window.groups),
        inputs=np.int64(inputs),
        outputs=np.int64(outputs),
    )
    return result.astype(first.dtype)
