"""Brightness, contrast, saturation and hue of images.

Images are `[B, H, W, C]`, uint8 or float32 in [0, 1], with one or three channels. Factors are
`[B]`, one for each image; 1 changes nothing. Rounding follows torchvision's
`transforms.v2.functional` of tensors, or Pillow's `ImageEnhance` where a `style` says so.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data import dtypes
from cnn_jax.data.augment.geometry import Style

_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue in torchvision's grey
_PILLOW_WEIGHTS = (19595, 38470, 7471)  # in 1 / 65,536


def grey(images: jax.Array, style: Style = "torchvision") -> jax.Array:
    """Returns grey images `[B, H, W, 1]` float32, rounded to whole numbers for uint8 images.

    torchvision rounds down. Pillow's mode L rounds to the nearest and has weights of 16 bits.
    TensorFlow's `rgb_to_grayscale` multiplies by 255.5 / 255 and rounds down.
    """
    if images.shape[3] == 1:
        return images.astype(jnp.float32)
    if style == "pillow":
        weights = np.array(_PILLOW_WEIGHTS, np.int32)
        total = jnp.sum(images.astype(jnp.int32) * weights, axis=3, keepdims=True)
        return ((total + 0x8000) >> 16).astype(jnp.float32)
    red, green, blue = (images[..., index, None].astype(jnp.float32) for index in range(3))
    total = red * _WEIGHTS[0] + green * _WEIGHTS[1] + blue * _WEIGHTS[2]
    if style == "tensorflow":
        total *= np.float32(255.5 / 255)
    return jnp.floor(total) if images.dtype == jnp.uint8 else total


def grey_means(images: jax.Array, style: Style = "torchvision") -> jax.Array:
    """Returns the mean of each grey image, `[B]` float32; Pillow rounds it to a whole number."""
    shades = grey(images, style)
    if images.dtype == jnp.uint8:
        # XLA's sum of integers on a CPU takes a fortieth of the time of one of floats.
        shades = shades.astype(jnp.int32)
    flat = shades.reshape(images.shape[0], -1)
    means = jnp.sum(flat, axis=1).astype(jnp.float32) / flat.shape[1]
    return jnp.floor(means + 0.5) if style == "pillow" else means


def blend(images: jax.Array, other: jax.Array, factors: jax.Array, style: Style) -> jax.Array:
    """Returns `factors * images + (1 - factors) * other`, in the images' range and dtype.

    Args:
      images: `[B, H, W, C]`.
      other: float32, broadcast to the images.
      factors: `[B]`.
      style: the library. Its order of the float32 operations decides the last bit.
    """
    values, factors = images.astype(jnp.float32), _each(factors)
    if style == "torchvision":
        mixed = values * factors + other * (1 - factors)
    else:
        mixed = other + factors * (values - other)
    return in_range(mixed, images.dtype)


def in_range(values: jax.Array, dtype: np.dtype) -> jax.Array:
    """Clips float32 pixels to [0, 255] for uint8 and to [0, 1] else, and truncates uint8."""
    return jnp.clip(values, 0, dtypes.peak(dtype)).astype(dtype)


def saturation(images: jax.Array, factors: jax.Array, style: Style = "torchvision") -> jax.Array:
    """Changes the saturation, as torchvision's `adjust_saturation` or Pillow's `Color`.

    A factor of 0 gives grey images. Images of one channel do not change.
    """
    return images if images.shape[3] == 1 else blend(images, grey(images, style), factors, style)


def hue(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Shifts the hue, as torchvision's `adjust_hue`; images of one channel do not change.

    Args:
      images: `[B, H, W, C]`.
      shifts: `[B]`, in [-0.5, 0.5], as fractions of the colour circle.
    """
    if images.shape[3] == 1:
        return images
    scaled = images.astype(jnp.float32) * np.float32(1 / dtypes.peak(images.dtype))
    # One array for each channel: operations between channels of one array are slow on a CPU.
    turned = _turned(scaled[..., 0], scaled[..., 1], scaled[..., 2], shifts)
    found = jnp.stack(_from_hsv(*turned), axis=3)
    if images.dtype == jnp.uint8:
        # torchvision's conversion of floats to bytes: each byte has an equal share of [0, 1].
        found = found * np.float32(256 - 1e-3)
    return found.astype(images.dtype)


def _turned(
    red: jax.Array, green: jax.Array, blue: jax.Array, shifts: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns hue, saturation and value in [0, 1], with the hue shifted."""
    most = jnp.maximum(jnp.maximum(red, green), blue)
    spread = most - jnp.minimum(jnp.minimum(red, green), blue)
    is_grey = spread == 0
    saturations = spread / jnp.where(is_grey, 1, most)
    divisor = jnp.where(is_grey, 1, spread)
    from_red, from_green, from_blue = ((most - part) / divisor for part in (red, green, blue))
    sixth = jnp.where(
        most == red,
        from_blue - from_green,
        jnp.where(most == green, 2 + from_red - from_blue, 4 + from_green - from_red),
    )
    hues = jnp.fmod(sixth * np.float32(1 / 6) + 1, 1)
    return jnp.mod(hues + shifts[:, None, None], 1), saturations, most


def _from_hsv(
    hues: jax.Array, saturations: jax.Array, most: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns red, green and blue in [0, 1]."""
    sector = jnp.floor(hues * 6)
    part = saturations * (hues * 6 - sector)
    rest = 1 - saturations
    falling, rising, least = (
        jnp.clip(share * most, 0, 1) for share in (1 - part, part + rest, rest)
    )
    index = jnp.mod(sector.astype(jnp.int32), 6)
    cases = [index == number for number in range(5)]
    return (
        jnp.select(cases, [most, falling, least, least, rising], most),
        jnp.select(cases, [rising, most, most, falling, least], least),
        jnp.select(cases, [least, least, rising, most, most], falling),
    )


def _each(numbers: jax.Array) -> jax.Array:
    """Returns one number for each image, `[B]`, as `[B, 1, 1, 1]`."""
    return numbers[:, None, None, None]
