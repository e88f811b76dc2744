"""Selection of the algorithm for a convolution and its two gradients, from static shapes."""

import jax

from cnn_jax.ops import dtypes
from cnn_jax.ops.cpu import dense, depthwise, grouped
from cnn_jax.ops.window import Window


def output(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """Computes the output: `[B, H, W, C]` and `[kh, kw, C/g, O]` to `[B, H', W', O]`."""
    if window.groups == 1:
        y = dense.output(x, kernel, window)
    elif kernel.shape[2] == 1:
        y = depthwise.output(dtypes.widen(x), dtypes.widen(kernel), window)
    else:
        y = grouped.output(x, kernel, window)
    return y.astype(x.dtype)


def input_gradient(dy: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """Computes the input gradient: `[B, H', W', O]` and `[kh, kw, C/g, O]` to `[B, H, W, C]`."""
    if window.groups == 1:
        dx = dense.input_gradient(dy, kernel, window)
    elif kernel.shape[2] == 1:
        dx = depthwise.input_gradient(dtypes.widen(dy), dtypes.widen(kernel), window)
    else:
        dx = grouped.input_gradient(dy, kernel, window)
    return dx.astype(dy.dtype)


def kernel_gradient(x: jax.Array, dy: jax.Array, *, window: Window) -> jax.Array:
    """Computes the kernel gradient: `[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C/g, O]`."""
    if window.groups == 1:
        dkernel = dense.kernel_gradient(x, dy, window)
    elif window.groups == x.shape[-1]:
        dkernel = depthwise.kernel_gradient(dtypes.widen(x), dtypes.widen(dy), window)
    else:
        dkernel = grouped.kernel_gradient(x, dy, window)
    return dkernel.astype(x.dtype)
