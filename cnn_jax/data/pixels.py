"""Pixel arithmetic for NumPy arrays on the host and JAX arrays on a device."""

from typing import TypeVar

import jax
import numpy as np

Pixels = TypeVar("Pixels", np.ndarray, jax.Array)


def normalise(images: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> Pixels:
    """Returns `(images / 255 - mean) / std`, float32.

    On the host, every operation is rounded to float32, as in PyTorch. On a device, XLA replaces
    the division by 255 by a multiplication by 1/255, so the last bits can differ.

    Args:
      images: `[..., C]`, values from 0 to 255.
      mean: the mean of each channel, of pixels scaled to [0, 1].
      std: the standard deviation of each channel, likewise.
    """
    scaled = images.astype(np.float32) / np.float32(255)
    return (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
