"""Random numbers and pictures by formula, equal on every machine and with every NumPy.

`Draws` has the methods of `numpy.random.Generator` that the corruptions use. Its normal numbers are
sums of uniform ones, and its Poisson numbers are rounded: a comparison of formulas needs no exact
distribution, but equal numbers on both sides.
"""

from typing import Any

import numpy as np

Size = tuple[int, ...] | int | None


class Draws:
    """Generator of random numbers, SplitMix64 (Steele et al. 2014, doi:10.1145/2714064.2660195)."""

    def __init__(self, seed: int) -> None:
        self._next = seed << 40

    def random(self, size: Size = None) -> Any:
        shape = () if size is None else size
        count = int(np.prod(shape))
        state = np.arange(self._next + 1, self._next + 1 + count, dtype=np.uint64)
        self._next += count
        state *= np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
        return (state >> np.uint64(11)).astype(np.float64).reshape(shape)[()] * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Size = None) -> Any:
        return low + (high - low) * self.random(size)

    def integers(self, low: int, high: int | None = None, size: Size = None) -> Any:
        least, end = (0, low) if high is None else (low, high)
        return least + np.asarray(np.floor((end - least) * self.random(size)), np.int64)[()]

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Size = None) -> Any:
        return loc + scale * (sum(self.random(size) for _ in range(4)) - 2) * 3**0.5

    def poisson(self, lam: np.ndarray) -> Any:
        noise = self.normal(size=lam.shape)
        return np.maximum(np.rint(lam + np.sqrt(lam) * noise), 0).astype(np.int64)


def picture(height: int, width: int, phase: int = 0) -> np.ndarray:
    """Returns an image `[height, width, 3]`: gradients, texture, and areas of one colour."""
    rows, columns = np.mgrid[:height, :width] + phase
    channels = []
    for factor in (2, 3, 5):
        wave = (factor * rows + (7 - factor) * columns) % 510
        channels.append(np.minimum(wave, 510 - wave) + rows * columns * factor % 41 - 20)
    image = np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)
    top, left = height // 8, width // 8
    for number, colour in enumerate(((255, 255, 255), (0, 0, 0), (200, 30, 90), (77, 77, 77))):
        image[top : 2 * top, left * (1 + number) : left * (2 + number)] = colour
    return image


PHOTOGRAPHS = [picture(290, 340, 100 * number) for number in range(1, 6)]
"""Five pictures in place of the photographs of frost."""


def sample(image: np.ndarray) -> np.ndarray:
    """Returns about 16 x 16 pixels of an image, which a golden file stores."""
    step = max(2, min(image.shape[:2]) // 14)
    return image[::step, ::step]
