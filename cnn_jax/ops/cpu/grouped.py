"""Convolutions in groups: split into dense ones."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnn_jax.ops.cpu import dense
from cnn_jax.ops.window import Window

# Groups with fewer channels are joined, zeros between them, into blocks of so many.
_BLOCK_CHANNELS = 16


def output(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """`[B, H, W, C]` and `[kh, kw, C/g, O]` to `[B, H', W', O]`."""
    return _by_blocks(dense.output, x, kernel, window)


def input_gradient(dy: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """`[B, H', W', O]` and `[kh, kw, C/g, O]` to `[B, H, W, C]`."""
    return _by_blocks(dense.input_gradient, dy, kernel, window)


def _by_blocks(
    operation: Callable[[jax.Array, jax.Array, Window], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    window: Window,
) -> jax.Array:
    kernels = _blocks(kernel, window.groups)
    parts = zip(_split(x, len(kernels)), kernels, strict=True)
    one = dataclasses.replace(window, groups=1)
    return jnp.concatenate([operation(*part, one) for part in parts], axis=-1)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """`[B, H, W, C]` and `[B, H', W', O]` to `[kh, kw, C/g, O]`."""
    groups = window.groups
    joined = _joined(groups, max(x.shape[-1], dy.shape[-1]) // groups)
    parts = zip(_split(x, groups // joined), _split(dy, groups // joined), strict=True)
    one = dataclasses.replace(window, groups=1)
    blocks = [dense.kernel_gradient(*part, one) for part in parts]
    return jnp.concatenate([_diagonal(block, joined) for block in blocks], axis=-1)


def _joined(groups: int, channels: int) -> int:
    """How many groups make a block."""
    most = max(_BLOCK_CHANNELS // channels, 1)
    return max(count for count in range(1, most + 1) if groups % count == 0)


def _split(x: jax.Array, parts: int) -> list[jax.Array]:
    return jnp.split(x, parts, axis=-1)


def _blocks(kernel: jax.Array, groups: int) -> list[jax.Array]:
    """Block-diagonal kernels `[kh, kw, j C/g, j O/g]`, each of `j` groups."""
    height, width, channels, outputs = kernel.shape
    joined = _joined(groups, max(channels, outputs // groups))
    kernel = kernel.reshape(height, width, channels, -1, joined, outputs // groups)
    own = jnp.eye(joined, dtype=kernel.dtype)
    blocks = jnp.einsum("hwcbjo,ij->bhwicjo", kernel, own)
    return list(blocks.reshape(groups // joined, height, width, joined * channels, -1))


def _diagonal(block: jax.Array, joined: int) -> jax.Array:
    """The inverse of one of `_blocks`: `[kh, kw, j c, j o]` to `[kh, kw, c, j o]`."""
    height, width, channels, outputs = block.shape
    block = block.reshape(height, width, joined, channels // joined, joined, outputs // joined)
    own = jnp.diagonal(block, axis1=2, axis2=4)  # [kh, kw, c, o, j]
    return own.swapaxes(3, 4).reshape(height, width, channels // joined, outputs)
