"""Blur: defocus, frosted glass, motion, zoom, and Gaussian blur.

All functions have the signature `Corruption` of the package. Parameters are those of Hendrycks &
Dietterich 2019 (arXiv:1903.12261).
"""

import numpy as np

from cnn_jax.evaluators.corruptions import filters
from cnn_jax.evaluators.corruptions.colours import to_bytes, to_unit
from cnn_jax.evaluators.corruptions.severities import choose, table

_GAUSSIAN = table((0.4, 0.6, 0.7, 0.8, 1), (0.5, 0.75, 1, 1.25, 1.5), (1, 2, 3, 4, 6))
# The radius of the disk, and the standard deviation of the blur of its edge.
_DEFOCUS = table(
    ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
# The standard deviation of the blur, the longest shift of a pixel, and the number of passes.
_GLASS = table(
    ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
# Radius and standard deviation.
_MOTION = table(
    ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
# End and step of the factors.
_SMALL_ZOOM = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
_ZOOM = table(
    _SMALL_ZOOM,
    _SMALL_ZOOM,
    ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
)


def gaussian_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Blurs the image by a Gaussian."""
    del rng
    return to_bytes(filters.gaussian(to_unit(image), choose(_GAUSSIAN, image.shape, severity)))


def defocus_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Averages the pixels below a disk, the image of a point that is out of focus."""
    del rng
    radius, sigma = choose(_DEFOCUS, image.shape, severity)
    blurred = filters.correlate(to_unit(image), _disk(radius, sigma))
    # The rounding of the transforms must not lower areas of one colour by a level.
    return to_bytes(blurred + 1e-9)


def _disk(radius: float, sigma: float) -> np.ndarray:
    """Returns a disk with a blurred edge, whose sum is 1.

    Small disks lie on a grid of 17 x 17 pixels. Where a disk fills its grid, the blur is reflected
    at the border of the grid, as in the published code.
    """
    side, margin = (8, 1) if radius <= 8 else (int(radius), 2)
    squares = np.arange(-side, side + 1) ** 2
    disk = (squares[:, None] + squares <= radius**2).astype(np.float64)
    disk /= disk.sum()
    weights = filters.gaussian_weights(sigma, margin)
    edged = filters.along(disk, weights, 0, filters.mirror)
    return filters.along(edged, weights, 1, filters.mirror)


def glass_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Blurs the image, replaces pixels by random neighbours, and blurs it again.

    The published code means to exchange pixels. It copies them, because rows of pixels are views in
    NumPy, and so does this function.
    """
    sigma, shift, passes = choose(_GLASS, image.shape, severity)
    blurred = to_bytes(filters.gaussian(to_unit(image), sigma))
    height, width, channels = image.shape
    rows = np.arange(height - shift, shift, -1)
    columns = np.arange(width - shift, shift, -1)
    draws = rng.integers(-shift, shift, size=(passes * len(rows) * len(columns), 2))
    moves = (draws[:, 1] * width + draws[:, 0]).tolist()
    places = (rows[:, None] * width + columns).ravel().tolist() * passes
    # The order matters: a pixel may be copied on. Lists of integers are faster here than arrays.
    origin = list(range(height * width))
    for place, move in zip(places, moves, strict=True):
        origin[place] = origin[place + move]
    shuffled = blurred.reshape(-1, channels)[origin].reshape(image.shape)
    return to_bytes(filters.gaussian(to_unit(shuffled), sigma))


def motion_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Blurs the image along a line at a random angle between -45 and 45 degrees."""
    radius, sigma = choose(_MOTION, image.shape, severity)
    blurred = filters.motion(image, radius, sigma, rng.uniform(-45, 45))
    return np.rint(blurred).astype(np.uint8)


def zoom_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Averages the image and enlargements of its centre, as in a move towards the scene."""
    del rng
    end, step = choose(_ZOOM, image.shape, severity)
    values = to_unit(image)
    factors = np.arange(1, end, step)
    total = values.copy()
    for factor in factors:
        total += filters.enlarged(values, factor)
    return to_bytes(total / (len(factors) + 1))
