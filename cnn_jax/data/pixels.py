"""Pixel arithmetic for NumPy arrays on the host and JAX arrays on a device."""

from typing import TypeVar

import jax
import numpy as np

from cnn_jax import errors

Pixels = TypeVar("Pixels", np.ndarray, jax.Array)


def normalise(
    images: Pixels, mean: tuple[float, ...], std: tuple[float, ...], peak: float = 255.0
) -> Pixels:
    """Returns `(images / peak - mean) / std`, float32.

    On the host, every operation is rounded to float32, as in PyTorch. On a device, XLA replaces
    the division by 255 by a multiplication by 1/255, so the last bits can differ.

    Args:
      images: `[..., C]`, values from 0 to `peak`.
      mean: the mean of each channel, of pixels scaled to [0, 1].
      std: the standard deviation of each channel, likewise.
      peak: the largest value of a pixel; `dtypes.peak` gives that of a dtype.
    """
    scaled = images.astype(np.float32) / np.float32(peak)
    return (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)


def undo(
    inputs: np.ndarray | jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """Returns normalised images as pixels, for plots: the inverse of `normalise` but for rounding.

    Args:
      inputs: `[..., H, W, C]`.
      mean: the mean of each channel, of pixels scaled to [0, 1].
      std: the standard deviation of each channel, likewise.

    Returns:
      `[..., H, W, C]` uint8. Values out of range are clipped.

    Raises:
      UserError: the inputs have another number of channels.
    """
    given = np.asarray(inputs, np.float32)
    if given.ndim < 3 or given.shape[-1] != len(mean):
        raise errors.UserError(
            f"inputs must have the shape [..., H, W, {len(mean)}], got {list(given.shape)}"
        )
    scaled = given * np.array(std, np.float32) + np.array(mean, np.float32)
    return np.rint(scaled * 255).clip(0, 255).astype(np.uint8)
