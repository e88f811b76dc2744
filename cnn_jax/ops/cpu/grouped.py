"""Grouped convolutions, computed as dense convolutions of blocks of groups.

Small groups are joined into blocks by block-diagonal kernels. A few blocks are computed by one
operation each. Many blocks are computed by one operation together, in a loop, or batched by `vmap`
for kernel gradients: with one operation for each of many blocks, XLA takes minutes to compile a
network.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.cpu import dense
from cnn_jax.ops.window import Window

# Smaller groups are joined into blocks of at most this many channels.
_BLOCK_CHANNELS = 16
# Up to this many blocks are separate operations.
_FEW_BLOCKS = 8

Operation = Callable[[jax.Array, jax.Array, Window], jax.Array]


def output(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes the output: `[B, H, W, C]` and `[kh, kw, C/g, O]` to `[B, H', W', O]`."""
    return _by_blocks(dense.output, x, kernel, window)


def input_gradient(dy: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes the input gradient: `[B, H', W', O]` and `[kh, kw, C/g, O]` to `[B, H, W, C]`."""
    return _by_blocks(dense.input_gradient, dy, kernel, window)


def _by_blocks(operation: Operation, x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    kernels = _block_kernels(kernel, window.groups)
    dense_window = dataclasses.replace(window, groups=1)
    if len(kernels) > _FEW_BLOCKS:
        return _in_a_loop(operation, x, kernels, dense_window)
    parts = zip(_split(x, len(kernels)), kernels, strict=True)
    return jnp.concatenate([operation(*part, dense_window) for part in parts], axis=-1)


def _in_a_loop(
    operation: Operation, x: jax.Array, kernels: jax.Array, dense_window: Window
) -> jax.Array:
    """Applies `operation` to each block of the channels of `x`, in a loop."""
    blocks, width = len(kernels), x.shape[-1] // len(kernels)

    def compute(block: jax.Array | int) -> jax.Array:
        part = lax.dynamic_slice_in_dim(x, block * width, width, axis=3)
        return operation(part, kernels[block], dense_window)

    def put(block: jax.Array, y: jax.Array) -> jax.Array:
        part = compute(block)
        return lax.dynamic_update_slice_in_dim(y, part, block * part.shape[-1], axis=3)

    result = jax.eval_shape(compute, 0)
    y = jnp.zeros((*result.shape[:3], blocks * result.shape[3]), result.dtype)
    return lax.fori_loop(0, blocks, put, y)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """Computes the kernel gradient: `[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C/g, O]`."""
    groups = window.groups
    joined = _groups_per_block(groups, max(x.shape[-1], dy.shape[-1]) // groups)
    blocks = groups // joined
    dense_window = dataclasses.replace(window, groups=1)

    def gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        return _diagonal(dense.kernel_gradient(x, dy, dense_window), joined)

    if blocks > _FEW_BLOCKS:
        stacked = jax.vmap(gradient)(_stack(x, blocks), _stack(dy, blocks))
        return jnp.moveaxis(stacked, 0, 3).reshape(*stacked.shape[1:4], -1)
    parts = zip(_split(x, blocks), _split(dy, blocks), strict=True)
    return jnp.concatenate([gradient(*part) for part in parts], axis=-1)


def _stack(x: jax.Array, blocks: int) -> jax.Array:
    """Stacks the blocks of channels: `[B, H, W, b C]` to `[b, B, H, W, C]`."""
    return jnp.moveaxis(x.reshape(*x.shape[:3], blocks, x.shape[3] // blocks), 3, 0)


def _groups_per_block(groups: int, channels: int) -> int:
    """Returns the number of groups in a block; it divides `groups`."""
    most = max(_BLOCK_CHANNELS // channels, 1)
    return max(count for count in range(1, most + 1) if groups % count == 0)


def _split(x: jax.Array, parts: int) -> list[jax.Array]:
    return jnp.split(x, parts, axis=-1)


def _block_kernels(kernel: jax.Array, groups: int) -> jax.Array:
    """Returns block-diagonal kernels `[g/j, kh, kw, j C/g, j O/g]` of `j` groups each."""
    height, width, channels, outputs = kernel.shape
    joined = _groups_per_block(groups, max(channels, outputs // groups))
    kernel = kernel.reshape(height, width, channels, -1, joined, outputs // groups)
    own = jnp.eye(joined, dtype=kernel.dtype)
    blocks = jnp.einsum("hwcbjo,ij->bhwicjo", kernel, own)
    return blocks.reshape(groups // joined, height, width, joined * channels, -1)


def _diagonal(block: jax.Array, joined: int) -> jax.Array:
    """Returns the groups on the diagonal of a block: `[kh, kw, j c, j o]` to `[kh, kw, c, j o]`."""
    height, width, channels, outputs = block.shape
    block = block.reshape(height, width, joined, channels // joined, joined, outputs // joined)
    own = jnp.diagonal(block, axis1=2, axis2=4)  # [kh, kw, c, o, j]
    return own.swapaxes(3, 4).reshape(height, width, channels // joined, outputs)
