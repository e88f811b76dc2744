"""Conversion of pixels: bytes and floats in [0, 1], grey, and HSV.

The operations and their order are those of the published code, because results are truncated to
bytes: another order changes some of them by one level.
"""

import numpy as np

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


def to_unit(image: np.ndarray) -> np.ndarray:
    """Returns an image of bytes as float64 in [0, 1]."""
    return image / 255.0


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Returns values in [0, 1] as bytes, clipped and truncated, as the published code does."""
    return np.asarray(np.clip(values, 0, 1) * 255).astype(np.uint8)


def luma(values: np.ndarray) -> np.ndarray:
    """Returns the grey values `[h, w, 1]` of an image `[h, w, C]` of one or three channels."""
    if values.shape[-1] == 1:
        return values
    red, green, blue = (values[..., channel, None] for channel in range(3))
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def to_hsv(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns hue, saturation and value in [0, 1], `[h, w]` each, of an image `[h, w, 3]`.

    The hue of greys is 0, as in scikit-image.
    """
    red, green, blue = np.moveaxis(values, -1, 0)
    value = values.max(-1)
    spread = value - values.min(-1)
    is_grey = spread == 0
    divisor = np.where(is_grey, 1, spread)
    hue = np.select(
        [blue == value, green == value],
        [4 + (red - green) / divisor, 2 + (blue - red) / divisor],
        (green - blue) / divisor,
    )
    saturation = np.where(is_grey, 0, spread / np.where(value == 0, 1, value))
    return np.where(is_grey, 0, (hue / 6) % 1), saturation, value


def from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns the image `[h, w, 3]` of hue, saturation and value; see `to_hsv`."""
    sector = np.floor(hue * 6)
    part = hue * 6 - sector
    least = value * (1 - saturation)
    falling = value * (1 - part * saturation)
    rising = value * (1 - (1 - part) * saturation)
    colours = (
        (value, rising, least),
        (falling, value, least),
        (least, value, rising),
        (least, falling, value),
        (rising, least, value),
        (value, least, falling),
    )
    number = sector.astype(np.int64) % 6
    channels = zip(*colours, strict=True)
    return np.stack([np.choose(number, channel) for channel in channels], -1)
