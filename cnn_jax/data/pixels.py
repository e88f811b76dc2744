"""Pixel arithmetic on the host or on a device."""

from typing import TypeVar

import jax
import numpy as np

Pixels = TypeVar("Pixels", np.ndarray, jax.Array)


def normalise(images: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> Pixels:
    """Bytes `[..., C]` to float32 in units of the deviation from the mean, on the host or a device.

    On the host each step is rounded as in torch; XLA multiplies by 1/255 instead of dividing.
    """
    scaled = images.astype(np.float32) / np.float32(255)
    return (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
