"""Calls of the native kernels for a convolution and its two gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.native import geometry, library
from cnn_jax.ops.window import Window

# Groups with fewer input channels have kernels in float32 only.
_FEW_CHANNELS = 16


def supports(first: jax.Array, second: jax.Array, *, window: Window) -> bool:
    """Returns True if kernels support the dtypes of the operands. All windows are supported."""
    del window
    return library.has("ConvOutput", first, second)


def output(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """Computes the output: `[B, H, W, C]` and `[kh, kw, C/g, O]` to `[B, H', W', O]`."""
    shape = (x.shape[0], window.rows.output, window.columns.output, kernel.shape[-1])
    if _needs_zero_channel(x, kernel.shape[2], window):
        x, kernel = _append_zeros(x, 3), _append_zeros(kernel, 2)
    return _call("ConvOutput", shape, x, kernel, window, kernel.shape[2], kernel.shape[-1])


def input_gradient(dy: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """Computes the input gradient: `[B, H', W', O]` and `[kh, kw, C/g, O]` to `[B, H, W, C]`."""
    channels = kernel.shape[2] * window.groups
    shape = (dy.shape[0], window.rows.size, window.columns.size, channels)
    if _needs_zero_channel(dy, dy.shape[-1], window):
        dy, kernel = _append_zeros(dy, 3), _append_zeros(kernel, 3)
    return _call("ConvInputGradient", shape, dy, kernel, window, kernel.shape[2], dy.shape[-1])


def kernel_gradient(x: jax.Array, dy: jax.Array, *, window: Window) -> jax.Array:
    """Computes the kernel gradient: `[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C/g, O]`."""
    inputs = x.shape[-1] // window.groups
    shape = (window.rows.kernel, window.columns.kernel, inputs, dy.shape[-1])
    return _call("ConvKernelGradient", shape, x, dy, window, inputs, dy.shape[-1])


def _needs_zero_channel(images: jax.Array, summed: int, window: Window) -> bool:
    """Returns True if the operands need a channel of zeros for the bfloat16 kernels.

    A step of these kernels multiplies two neighbouring channels of a pixel, so their number must be
    even.

    Args:
      images: first operand of the kernel.
      summed: number of channels that the kernel sums over.
      window: geometry of the convolution.
    """
    return images.dtype == jnp.bfloat16 and summed % 2 == 1 and window.groups == 1


def _append_zeros(x: jax.Array, axis: int) -> jax.Array:
    """Appends one slice of zeros to `axis`."""
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
    """Calls a kernel, in float32 if it has no variant for the dtype of the operands.

    Args:
      name: name of the kernel.
      shape: shape of the result.
      first: first operand.
      second: second operand.
      window: geometry of the convolution.
      inputs: number of input channels of one group.
      all_outputs: number of output channels of all groups.

    Returns:
      Result in the dtype of `first`.
    """
    outputs = all_outputs // window.groups
    # A step of the bfloat16 kernels sums two products, of two channels or of two images. Kernel
    # gradients sum over images, of which an odd number is allowed.
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
