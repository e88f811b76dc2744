"""Mean, standard deviation and covariance of the channels of images."""

import numpy as np
from numpy.typing import DTypeLike

from cnn_jax import plan
from cnn_jax.data import dtypes, images

_LEVELS = np.arange(256)
# A channel without contrast has deviation 0; one grey level, of 8 or 16 bits, keeps the quotient
# finite.
_LEAST = {255.0: 1 / 255, 1.0: 1 / 65535}
_PART = 2**22  # values that are added together, so that copies of them need little memory


def needs_covariance(data: plan.Data) -> bool:
    """Returns True if an augmentation of the plan reads `Description.covariance`."""
    return any(name == "pca_colour" for name, _ in data.augment)


class Moments:
    """Running sums of the pixels of each channel and of their squares, over all images."""

    def __init__(
        self, channels: int, dtype: DTypeLike = np.uint8, covariance: bool = False
    ) -> None:
        """Sets all sums to 0.

        Args:
          channels: the number of channels.
          dtype: of the images, uint8 or float32. Sums of uint8 are exact.
          covariance: True to sum the products of each pair of channels, too.
        """
        self._peak = dtypes.peak(dtype)
        self._exact = np.dtype(dtype) == np.uint8
        self._count = 0
        sums = np.zeros((2, channels), np.int64 if self._exact else np.float64)
        self._sums, self._squares = sums
        self._products = np.zeros((channels, channels), sums.dtype) if covariance else None

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
        if self._products is not None:
            # Float64 holds the sums of one part exactly: 2**22 products of at most 255**2.
            columns = image.reshape(-1, image.shape[-1]).astype(np.float64)
            self._products += (columns.T @ columns).astype(self._products.dtype)

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns mean and standard deviation of each channel, of pixels scaled to [0, 1]."""
        mean = self._sums / (self._peak * self._count)
        variance = self._squares / (self._peak**2 * self._count) - np.square(mean)
        std = np.maximum(np.sqrt(np.maximum(variance, 0)), _LEAST[self._peak])
        return tuple(mean.tolist()), tuple(std.tolist())

    def covariance(self) -> tuple[tuple[float, ...], ...]:
        """Returns the covariance of the channels, of pixels scaled to [0, 1].

        Returns:
          `C` rows of `C` numbers; no rows if the products were not summed.
        """
        if self._products is None:
            return ()
        mean = self._sums / (self._peak * self._count)
        found = self._products / (self._peak**2 * self._count) - np.outer(mean, mean)
        return tuple(map(tuple, found.tolist()))
