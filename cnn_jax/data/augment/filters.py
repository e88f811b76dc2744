"""Sharpness and blur: operations on the neighbourhood of each pixel.

Images are `[B, H, W, C]`, uint8 or float32 in [0, 1].
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.data.augment import colour
from cnn_jax.data.augment.geometry import Style, as_pixels


def sharpness(images: jax.Array, factors: jax.Array, style: Style = "torchvision") -> jax.Array:
    """Changes the sharpness, as torchvision's `adjust_sharpness` or Pillow's `Sharpness`.

    The pixels at the border do not change.

    Args:
      images: `[B, H, W, C]`.
      factors: `[B]`; 0 gives the smoothed image, 1 the original image, 2 a sharper one.
      style: the library. TensorFlow's code truncates the smoothed image, the others round it.
    """
    smooth = _smooth(images, jnp.floor if style == "tensorflow" else jnp.round)
    if style != "torchvision":
        return colour.blend(images, smooth, factors, style)
    values = images.astype(jnp.float32)
    mixed = values + (1 - factors[:, None, None, None]) * (smooth - values)
    return colour.in_range(mixed, images.dtype)


def _smooth(images: jax.Array, rounded: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Returns images filtered by a kernel of ones with 5 in the centre, divided by 13; float32.

    For uint8 images, the result is rounded to whole numbers. Pixels at the border do not change.
    """
    count, height, width, channels = images.shape
    if height < 3 or width < 3:
        return images.astype(jnp.float32)
    is_bytes = images.dtype == jnp.uint8
    # Rows of values are contiguous, and int16 holds their sums: eight times as fast on a CPU.
    values = images.reshape(count, height, width * channels)
    values = values.astype(jnp.int16) if is_bytes else values
    down = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    down = jnp.pad(down, ((0, 0), (1, 1), (0, 0)))
    sides = down[:, :, : -2 * channels] + down[:, :, 2 * channels :]
    total = sides + down[:, :, channels:-channels] + 4 * values[:, :, channels:-channels]
    mean = jnp.pad(total, ((0, 0), (0, 0), (channels, channels))).astype(jnp.float32) / 13
    mean = rounded(mean) if is_bytes else mean
    rows, columns = np.arange(height), np.arange(width * channels)
    inner_columns = (columns >= channels) & (columns < (width - 1) * channels)
    inner = ((rows > 0) & (rows < height - 1))[:, None] & inner_columns
    return jnp.where(inner, mean, values.astype(jnp.float32)).reshape(images.shape)


def gaussian_blur(images: jax.Array, sigmas: jax.Array, size: int) -> jax.Array:
    """Returns torchvision's `gaussian_blur`: borders are reflected, uint8 results rounded.

    Args:
      images: `[B, H, W, C]`, with more than `size // 2` pixels on each side.
      sigmas: `[B]`, the standard deviations in pixels.
      size: the number of pixels of the kernel in each direction, odd.
    """
    _, height, width, channels = images.shape
    margin, length = size // 2, width * channels
    weights = gaussian_kernels(sigmas, size)[:, :, None, None]
    margins = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    padded = jnp.pad(images.astype(jnp.float32), margins, mode="reflect")
    lines = padded.reshape(images.shape[0], height + 2 * margin, -1)
    parts = (weights[:, k] * lines[:, k : k + height] for k in range(size))
    # Without a barrier, XLA would compute the first pass again for each term of the second one.
    down = lax.optimization_barrier(functools.reduce(operator.add, parts))
    starts = (k * channels for k in range(size))
    parts = (weights[:, k] * down[:, :, at : at + length] for k, at in enumerate(starts))
    found = functools.reduce(operator.add, parts).reshape(images.shape)
    return as_pixels(found, images.dtype)


def gaussian_kernels(sigmas: jax.Array, size: int) -> jax.Array:
    """Returns the weights `[B, size]` of Gaussian kernels of standard deviations `[B]`."""
    distances = np.arange(size, dtype=np.float32) - size // 2
    return jax.nn.softmax(-0.5 * (distances / sigmas[:, None]) ** 2, axis=1)
