"""Mean and standard deviation of the channels of images."""

import numpy as np
from PIL import Image

_LEVELS = 256


class Moments:
    """Counts of the values of pixels in each channel; every pixel has the same weight."""

    def __init__(self, channels: int) -> None:
        """Starts without pixels."""
        self._counts = np.zeros((channels, _LEVELS), np.int64)

    def add(self, image: np.ndarray) -> None:
        """Adds the pixels of an image `[h, w, C]` uint8, C 1 or 3."""
        # Pillow counts without a copy of the pixels in a wider dtype, which matters for large ones.
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        self._counts += np.reshape(picture.histogram(), (-1, _LEVELS))

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns mean and standard deviation of each channel, of pixels scaled to [0, 1]."""
        levels = np.arange(_LEVELS)
        count = self._counts.sum(1)
        mean = self._counts @ levels / (255 * count)
        variance = self._counts @ levels**2 / (255**2 * count) - np.square(mean)
        # A channel without contrast has deviation 0; one grey level keeps the quotient finite.
        std = np.maximum(np.sqrt(np.maximum(variance, 0)), 1 / 255)
        return tuple(mean.tolist()), tuple(std.tolist())
