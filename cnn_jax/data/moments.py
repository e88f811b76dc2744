"""Mean and standard deviation of the channels of images."""

import numpy as np
from numpy.typing import DTypeLike

from cnn_jax.data import dtypes, images

_LEVELS = np.arange(256)
# A channel without contrast has deviation 0; one grey level, of 8 or 16 bits, keeps the quotient
# finite.
_LEAST = {255.0: 1 / 255, 1.0: 1 / 65535}
_PART = 2**22  # values that are added together, so that copies of them need little memory


class Moments:
    """Running sums of the pixels of each channel and of their squares, over all images."""

    def __init__(self, channels: int, dtype: DTypeLike = np.uint8) -> None:
        """Starts without pixels.

        Args:
          channels: the number of channels.
          dtype: of the images, uint8 or float32. Sums of uint8 are exact.
        """
        self._peak = dtypes.peak(dtype)
        self._exact = np.dtype(dtype) == np.uint8
        self._count = 0
        sums = np.zeros((2, channels), np.int64 if self._exact else np.float64)
        self._sums, self._squares = sums

    def add(self, image: np.ndarray) -> None:
        """Adds the pixels of an image `[h, w, C]`."""
        self._count += image.shape[0] * image.shape[1]
        if image.strides[-1] == 0:  # All channels are equal; the sums of one serve for all.
            image = image[..., :1]
        rows = max(_PART // (image.shape[1] * image.shape[2]), 1)
        for top in range(0, image.shape[0], rows):
            self._add(image[top : top + rows])

    def _add(self, image: np.ndarray) -> None:
        if self._exact:
            # Pillow counts without a copy of the pixels in a wider dtype, which matters for large
            # ones.
            counts = np.reshape([part.histogram() for part in images.pictures(image)], (-1, 256))
            self._sums += counts @ _LEVELS
            self._squares += counts @ _LEVELS**2
        else:
            values = image.astype(np.float64)
            self._sums += values.sum((0, 1))
            self._squares += np.square(values).sum((0, 1))

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns mean and standard deviation of each channel, of pixels scaled to [0, 1]."""
        mean = self._sums / (self._peak * self._count)
        variance = self._squares / (self._peak**2 * self._count) - np.square(mean)
        std = np.maximum(np.sqrt(np.maximum(variance, 0)), _LEAST[self._peak])
        return tuple(mean.tolist()), tuple(std.tolist())
