"""Maximum and average pooling over the two spatial axes of `[B, H, W, C]`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Pair = int | tuple[int, int]


def max_pool(
    x: jax.Array, window: Pair, stride: Pair | None = None, padding: Pair = 0
) -> jax.Array:
    """The largest value in each window.

    Args:
      x: `[B, H, W, C]`.
      window: height and width in pixels, or one number for both.
      stride: step between windows, `window` when not given; smaller than the window, they overlap.
      padding: pixels of minus infinity on each side.

    Returns:
      `[B, (H + 2 padding - window) // stride + 1, ..., C]`.
    """
    return _reduce_window(x, -jnp.inf, lax.max, window, stride, padding)


def avg_pool(
    x: jax.Array, window: Pair, stride: Pair | None = None, padding: Pair = 0
) -> jax.Array:
    """The mean of each window; padding counts as zeros, in the sum and in the number of pixels.

    Args and shape as in `max_pool`.
    """
    height, width = _pair(window)
    return _reduce_window(x, 0.0, lax.add, window, stride, padding) / (height * width)


def _reduce_window(
    x: jax.Array,
    initial: float,
    operation: Callable[..., jax.Array],
    window: Pair,
    stride: Pair | None,
    padding: Pair,
) -> jax.Array:
    stride = window if stride is None else stride
    (top, left) = _pair(padding)
    return lax.reduce_window(
        x,
        initial,
        operation,
        window_dimensions=(1, *_pair(window), 1),
        window_strides=(1, *_pair(stride), 1),
        padding=((0, 0), (top, top), (left, left), (0, 0)),
    )


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
