"""Weather: snow, frost, fog and brightness.

All functions have the signature `Corruption` of the package. Parameters are those of Hendrycks &
Dietterich 2019 (arXiv:1903.12261).
"""

from collections.abc import Sequence

import numpy as np

from cnn_jax.data import images
from cnn_jax.evaluators.corruptions import colours, filters, fractal
from cnn_jax.evaluators.corruptions.colours import to_bytes, to_unit
from cnn_jax.evaluators.corruptions.severities import choose, size_of, table

# Mean and standard deviation of the flakes, their enlargement and least brightness; radius and
# standard deviation of the motion blur; the share of the picture that is not whitened.
_SNOW = table(
    (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)
# The factors of the picture and of the frost.
_FROST = table(
    ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
# The size of the frost relative to that in pictures of 224 pixels.
_FROST_SCALE = {32: 0.2, 64: 0.3, 224: 1.0}
# The strength of the fog, and the decay of its height map.
_FOG = table(
    ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
_USUAL_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
_BRIGHTNESS = table((0.05, 0.1, 0.15, 0.2, 0.3), _USUAL_BRIGHTNESS, _USUAL_BRIGHTNESS)

# Of the drawn frost: its mean grey from picture to picture and its colour, as in the first five
# photographs of the published code, and the contrast of its crystals and of its veil.
_FROST_GREYS, _FROST_TINT = (110.0, 205.0), (0.9, 1.02, 1.08)
_CRYSTALS, _VEIL = 20.0, 60.0
_NEEDLES = 6  # directions


def snow(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Whitens the picture and adds flakes that fall along a random line, from both sides."""
    mean, deviation, factor, least, radius, sigma, kept = choose(_SNOW, image.shape, severity)
    flakes = filters.enlarged(rng.normal(mean, deviation, image.shape[:2]), factor)
    flakes[flakes < least] = 0
    flakes = to_bytes(flakes).astype(np.float64)
    fallen = np.rint(filters.motion(flakes, radius, sigma, rng.uniform(-135, -45)))
    layer = (fallen / 255)[..., None]
    values = to_unit(image)
    whitened = np.maximum(values, colours.luma(values) * 1.5 + 0.5)
    values = kept * values + (1 - kept) * whitened
    return to_bytes(values + layer + layer[::-1, ::-1])


def frost(
    image: np.ndarray,
    severity: int,
    rng: np.random.Generator,
    photographs: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Adds a picture of frost.

    Args:
      image: see `Corruption`.
      severity: see `Corruption`.
      rng: see `Corruption`.
      photographs: of frost, `[h, w, 3]` uint8 each; a random part of one of them is added. Without
        photographs, the frost is drawn by `crystals`.
    """
    kept, added = choose(_FROST, image.shape, severity)
    height, width, channels = image.shape
    if len(photographs):
        ice = _part(photographs[int(rng.integers(len(photographs)))], height, width, rng)
    else:
        ice = crystals(height, width, rng)
    if channels == 1:
        ice = colours.luma(ice)
    return np.clip(kept * image + added * ice, 0, 255).astype(np.uint8)


def _part(photograph: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random part `[height, width, 3]` of a photograph, which is scaled first."""
    tall, wide = photograph.shape[:2]
    scale = max(_FROST_SCALE[size_of(height, width)], (height + 1) / tall, (width + 1) / wide)
    if scale != 1:
        size = max(round(tall * scale), height + 1), max(round(wide * scale), width + 1)
        photograph = images.stretch(photograph, size, "bilinear")
    top = rng.integers(photograph.shape[0] - height)
    left = rng.integers(photograph.shape[1] - width)
    return photograph[top : top + height, left : left + width]


def crystals(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draws frost: needles of ice in several directions over a cloudy veil.

    Args:
      height: in pixels.
      width: in pixels.
      rng: the source of random numbers.

    Returns:
      `[height, width, 3]` float64 from 0 to 255.
    """
    scale = _FROST_SCALE[size_of(height, width)]
    radius, sigma = max(2, round(12 * scale)), max(1.0, 8 * scale)
    grey = rng.uniform(*_FROST_GREYS)
    veil = fractal.covering(height, width, 2.0, rng) - 0.5
    needles = np.zeros((height, width))
    for angle in rng.uniform(0, 360, _NEEDLES):
        seeds = np.maximum(rng.normal(size=(height, width)) - 1.5, 0)
        needles += filters.motion(seeds, radius, sigma, angle)
    needles = (needles - needles.mean()) / (needles.std() or 1)
    shades = grey + _VEIL * veil + _CRYSTALS * needles
    return np.clip(shades[..., None] * np.array(_FROST_TINT), 0, 255)


def fog(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Adds a random height map, and keeps the brightest value of the picture."""
    strength, decay = choose(_FOG, image.shape, severity)
    values = to_unit(image)
    most = values.max()
    height, width = image.shape[:2]
    clouds = fractal.covering(height, width, decay, rng)[..., None]
    return to_bytes((values + strength * clouds) * most / (most + strength))


def brightness(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Raises the value V of HSV; of one channel, the grey value."""
    del rng
    amount, values = choose(_BRIGHTNESS, image.shape, severity), to_unit(image)
    if image.shape[-1] == 1:
        return to_bytes(values + amount)
    hue, saturation, value = colours.to_hsv(values)
    return to_bytes(colours.from_hsv(hue, saturation, np.clip(value + amount, 0, 1)))
