"""Noise: Gaussian, shot, impulse and speckle noise.

All functions have the signature `Corruption` of the package. Parameters are those of Hendrycks &
Dietterich 2019 (arXiv:1903.12261).
"""

import numpy as np

from cnn_jax.evaluators.corruptions.colours import to_bytes, to_unit
from cnn_jax.evaluators.corruptions.severities import choose, table

_GAUSSIAN = table(
    (0.04, 0.06, 0.08, 0.09, 0.10), (0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38)
)
_SHOT = table((500, 250, 100, 75, 50), (250, 100, 50, 30, 15), (60, 25, 12, 5, 3))
_IMPULSE = table(
    (0.01, 0.02, 0.03, 0.05, 0.07), (0.01, 0.02, 0.05, 0.08, 0.14), (0.03, 0.06, 0.09, 0.17, 0.27)
)
_SPECKLE = table(
    (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.25, 0.3, 0.35), (0.15, 0.2, 0.35, 0.45, 0.6)
)


def gaussian_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Adds normal noise of the standard deviation that the severity gives, of white."""
    deviation = choose(_GAUSSIAN, image.shape, severity)
    return to_bytes(to_unit(image) + rng.normal(0.0, deviation, image.shape))


def shot_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Draws each value from a Poisson distribution; the severity gives the mean count of white."""
    counts = choose(_SHOT, image.shape, severity)
    return to_bytes(rng.poisson(to_unit(image) * counts) / counts)


def impulse_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Sets the severity's share of the values of each channel to 0 or to white, equally often."""
    share = choose(_IMPULSE, image.shape, severity)
    chosen = rng.random(image.shape) <= share
    is_white = rng.random(image.shape) <= 0.5
    return np.where(chosen, np.where(is_white, np.uint8(255), np.uint8(0)), image)


def speckle_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Adds normal noise with a standard deviation proportional to each value."""
    deviation = choose(_SPECKLE, image.shape, severity)
    values = to_unit(image)
    return to_bytes(values + values * rng.normal(0.0, deviation, image.shape))
