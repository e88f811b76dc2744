"""Filters and resampling of images on the host, in NumPy and float64.

Images are `[h, w]` or `[h, w, C]`. They equal functions of SciPy, OpenCV or scikit-image up to the
rounding of float64, as each docstring says.
"""

import math
from collections.abc import Callable

import numpy as np

_LONGEST_SUM = 64  # Longer filters use Fourier transforms.

Fold = Callable[[np.ndarray, int], np.ndarray]
"""`(indices, length) -> indices`: moves indices outside [0, length) to the pixels they show."""


def nearest(indices: np.ndarray, length: int) -> np.ndarray:
    """Repeats the border: `a a | a b c | c c`."""
    return np.clip(indices, 0, length - 1)


def reflect(indices: np.ndarray, length: int) -> np.ndarray:
    """Reflects the image at the edge of its border pixels: `b a | a b c | c b`."""
    indices = indices % (2 * length)
    return np.minimum(indices, 2 * length - 1 - indices)


def mirror(indices: np.ndarray, length: int) -> np.ndarray:
    """Reflects the image at the centre of its border pixels: `c b | a b c | b a`."""
    # A single pixel is repeated.
    period = max(2 * length - 2, 1)
    indices = indices % period
    return np.minimum(indices, period - indices)


def gaussian(
    values: np.ndarray, sigma: float, *, fold: Fold = nearest, truncate: float = 4.0
) -> np.ndarray:
    """Returns a Gaussian blur over height and width.

    It equals `skimage.filters.gaussian` and `scipy.ndimage.gaussian_filter`.

    Args:
      values: the image.
      sigma: the standard deviation in pixels; 0 returns the image.
      fold: the treatment of the border.
      truncate: the radius of the filter in standard deviations.
    """
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return values
    weights = gaussian_weights(sigma, radius)
    return along(along(values, weights, 0, fold), weights, 1, fold)


def gaussian_weights(sigma: float, radius: int) -> np.ndarray:
    """Returns the weights `[2 * radius + 1]` of a Gaussian; their sum is 1."""
    distances = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / sigma**2 * distances**2)
    return np.asarray(weights / weights.sum())


def along(values: np.ndarray, weights: np.ndarray, axis: int, fold: Fold) -> np.ndarray:
    """Filters an image along one axis.

    Args:
      values: the image.
      weights: of odd length and symmetric.
      axis: 0 for columns of pixels, 1 for rows.
      fold: the treatment of the border.
    """
    length, radius = values.shape[axis], len(weights) // 2
    lines = np.moveaxis(values, axis, 0)
    padded = lines[fold(np.arange(-radius, length + radius), length)]
    if radius > _LONGEST_SUM:
        spectrum = np.fft.rfft(padded, axis=0)
        window = np.fft.rfft(weights, len(padded)).reshape(-1, *[1] * (values.ndim - 1))
        found = np.fft.irfft(spectrum * window, len(padded), axis=0)[2 * radius :]
    else:  # SciPy's order of additions
        found = padded[radius : radius + length] * weights[radius]
        for offset in range(radius, 0, -1):
            before = padded[radius - offset : radius - offset + length]
            after = padded[radius + offset : radius + offset + length]
            found += (before + after) * weights[radius + offset]
    return np.moveaxis(found, 0, axis)


def correlate(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlates each channel with a kernel, as OpenCV's `filter2D` with its default border.

    Args:
      values: `[h, w, C]`.
      kernel: `[2r + 1, 2r + 1]`.
    """
    height, width = values.shape[:2]
    radius = len(kernel) // 2
    rows, columns = (
        mirror(np.arange(-radius, length + radius), length) for length in (height, width)
    )
    padded = values[rows[:, None], columns]
    size = (len(rows), len(columns))
    window = np.conj(np.fft.rfft2(kernel, size))[..., None]
    found = np.fft.irfft2(np.fft.rfft2(padded, axes=(0, 1)) * window, size, axes=(0, 1))
    return np.asarray(found[:height, :width])


def motion(values: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Blurs an image along a line, as ImageMagick's `MotionBlurImage`.

    The weights are one half of a Gaussian, so that the image moves in one direction. The positions
    on the line are rounded to pixels, and the border is repeated.

    Args:
      values: the image.
      radius: the line has `2 * radius + 1` positions.
      sigma: the standard deviation in pixels.
      angle: of the line in degrees.
    """
    height, width = values.shape[:2]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    turn = math.radians(angle)
    down = np.ceil(steps * math.sin(turn) - 0.5).astype(np.int64)
    right = np.ceil(steps * math.cos(turn) - 0.5).astype(np.int64)
    rows = nearest(np.arange(min(down), height + max(down)), height)
    columns = nearest(np.arange(min(right), width + max(right)), width)
    padded = values[rows][:, columns].astype(np.float64)
    found = np.zeros(values.shape)
    for weight, top, left in zip(weights, down - min(down), right - min(right), strict=True):
        found += weight * padded[top : top + height, left : left + width]
    return found


def bilinear(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, fold: Fold) -> np.ndarray:
    """Returns an image at fractional positions, as `scipy.ndimage.map_coordinates` of order 1.

    Args:
      values: `[h, w, C]`.
      rows: `[h', w']` float.
      columns: `[h', w']` float.
      fold: the treatment of the border.

    Returns:
      `[h', w', C]`.
    """
    height, width = values.shape[:2]
    top, left = np.floor(rows), np.floor(columns)
    below, beside = (rows - top)[..., None], (columns - left)[..., None]
    first, second = (fold(top.astype(np.int64) + step, height) for step in (0, 1))
    start, end = (fold(left.astype(np.int64) + step, width) for step in (0, 1))
    upper = values[first, start] * (1 - beside) + values[first, end] * beside
    lower = values[second, start] * (1 - beside) + values[second, end] * beside
    return np.asarray(upper * (1 - below) + lower * below)


def enlarged(values: np.ndarray, factor: float) -> np.ndarray:
    """Enlarges the centre of an image to the size of the image, by linear interpolation.

    The region and its enlargement are rounded to pixels as in the published code, which calls
    `scipy.ndimage.zoom` of order 1.

    Args:
      values: `[h, w]` or `[h, w, C]`.
      factor: at least 1.
    """
    for axis in (0, 1):
        length = values.shape[axis]
        kept = math.ceil(length / factor)
        start = (length - kept) // 2
        size = round(kept * factor)
        places = np.arange(size) * ((kept - 1) / max(size - 1, 1))
        first = (size - length) // 2
        places = places[first : first + length]
        left = np.floor(places).astype(np.int64)
        share = (places - left).reshape(-1, *[1] * (values.ndim - 1 - axis))
        before = np.take(values, start + left, axis)
        after = np.take(values, start + np.minimum(left + 1, kept - 1), axis)
        values = before * (1 - share) + after * share
    return values
