"""Digital corruptions: contrast, elastic transform, pixelation, JPEG compression and saturation.

All functions have the signature `Corruption` of the package. Parameters are those of Hendrycks &
Dietterich 2019 (arXiv:1903.12261).
"""

import io

import numpy as np
from PIL import Image

from cnn_jax.data import images
from cnn_jax.evaluators.corruptions import colours, filters
from cnn_jax.evaluators.corruptions.colours import to_bytes, to_unit
from cnn_jax.evaluators.corruptions.severities import choose, table

_USUAL_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_CONTRAST = table((0.75, 0.5, 0.4, 0.3, 0.15), _USUAL_CONTRAST, _USUAL_CONTRAST)
# In pixels: the length of the displacements, the standard deviation of their blur, and the largest
# move of the corners of the affine transform. ImageNet-C has 244 where 224 was meant.
_ELASTIC = table(
    (
        (32 * 0, 32 * 0, 32 * 0.08),
        (32 * 0.05, 32 * 0.2, 32 * 0.07),
        (32 * 0.08, 32 * 0.06, 32 * 0.06),
        (32 * 0.1, 32 * 0.04, 32 * 0.05),
        (32 * 0.1, 32 * 0.03, 32 * 0.03),
    ),
    (
        (64 * 0, 64 * 0, 64 * 0.08),
        (64 * 0.05, 64 * 0.3, 64 * 0.06),
        (64 * 0.1, 64 * 0.08, 64 * 0.06),
        (64 * 0.1, 64 * 0.03, 64 * 0.03),
        (64 * 0.16, 64 * 0.03, 64 * 0.02),
    ),
    (
        (244 * 2, 244 * 0.7, 244 * 0.1),
        (244 * 2, 244 * 0.08, 244 * 0.2),
        (244 * 0.05, 244 * 0.01, 244 * 0.02),
        (244 * 0.07, 244 * 0.01, 244 * 0.02),
        (244 * 0.12, 244 * 0.01, 244 * 0.02),
    ),
)
_PIXELATE = table(
    (0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)
)
_QUALITY = table((80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7))
# Factor and summand of the saturation.
_SATURATE = table(
    ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
)


def contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Moves each value towards the mean of its channel."""
    del rng
    factor, values = choose(_CONTRAST, image.shape, severity), to_unit(image)
    means = values.mean((0, 1), keepdims=True)
    return to_bytes((values - means) * factor + means)


def elastic_transform(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Applies a random affine transform, and then smooth random displacements."""
    length, sigma, move = choose(_ELASTIC, image.shape, severity)
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    moves = rng.uniform(-move, move, size=(3, 2))
    moved = filters.bilinear(to_unit(image), *_affine(rows, columns, moves), filters.mirror)
    across, down = (
        length
        * filters.gaussian(
            rng.uniform(-1, 1, size=(height, width)), sigma, fold=filters.reflect, truncate=3
        )
        for _ in range(2)
    )
    return to_bytes(filters.bilinear(moved, rows + down, columns + across, filters.reflect))


def _affine(
    rows: np.ndarray, columns: np.ndarray, moves: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions in the original image of the pixels of the moved one.

    Args:
      rows: `[h, w]`, the row of each pixel.
      columns: `[h, w]`, the column of each pixel.
      moves: `[3, 2]`, the moves of three corners of the central square, in x and y.
    """
    height, width = rows.shape
    centre, reach = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    # x and y of the original corners are linear in those of the moved ones.
    moved = np.column_stack([corners + moves, np.ones(3)])
    x, y = np.linalg.lstsq(moved, corners, rcond=None)[0].T
    return y[0] * columns + y[1] * rows + y[2], x[0] * columns + x[1] * rows + x[2]


def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Shrinks the image by the means of boxes, and enlarges it again."""
    del rng
    share = choose(_PIXELATE, image.shape, severity)
    height, width = image.shape[:2]
    size = max(1, int(width * share)), max(1, int(height * share))
    box = Image.Resampling.BOX
    parts = [
        np.asarray(picture.resize(size, box).resize((width, height), box))
        for picture in images.pictures(image)
    ]
    return parts[0].reshape(image.shape)


def jpeg_compression(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Stores the image as a JPEG file of low quality, and reads it again."""
    del rng
    file = io.BytesIO()
    (picture,) = images.pictures(image)
    picture.save(file, "JPEG", quality=choose(_QUALITY, image.shape, severity))
    with Image.open(file) as stored:
        return np.array(stored).reshape(image.shape)


def saturate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Changes the saturation S of HSV; images of one channel do not change."""
    del rng
    if image.shape[-1] == 1:
        return image.copy()
    factor, summand = choose(_SATURATE, image.shape, severity)
    hue, saturation, value = colours.to_hsv(to_unit(image))
    changed = np.clip(saturation * factor + summand, 0, 1)
    return to_bytes(colours.from_hsv(hue, changed, value))
