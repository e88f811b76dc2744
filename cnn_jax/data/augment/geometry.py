"""Affine maps of images: rotation, translation, zoom and shear, as one matrix and one warp.

Matrices are `[B, 2, 3]` float32. They map a pixel of the result to its place in the image that is
warped, `(x, y)` in pixels to the right and downwards. The origin is the centre of the image.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Style = Literal["torchvision", "pillow", "tensorflow"]
"""The library whose rounding and borders an operation follows.

- torchvision: `transforms.v2.functional` of tensors. Bilinear results are rounded, and places
  beyond the image count as black or as the fill.
- pillow: `Image.transform`. Bilinear and bicubic results are truncated. Places within the image
  take their neighbours from it alone; others get the fill.
- tensorflow: `tfa.image.transform`, nearest only.
"""

Fill = float | tuple[float, ...] | None


def identity(batch: int) -> jax.Array:
    """Returns the matrices that leave `batch` images as they are."""
    return jnp.broadcast_to(jnp.eye(2, 3, dtype=jnp.float32), (batch, 2, 3))


def affine(
    angles: jax.Array,
    translations: jax.Array,
    scales: jax.Array,
    shears: jax.Array,
    centre: tuple[float, float] = (0.0, 0.0),
) -> jax.Array:
    """Returns the matrices of torchvision's `functional.affine`.

    Args:
      angles: `[B]`, degrees, clockwise.
      translations: `[B, 2]`, pixels to the right and downwards.
      scales: `[B]`, above 1 for larger images.
      shears: `[B, 2]`, degrees, parallel to the x and the y axis.
      centre: the fixed point of rotation, zoom and shear, from the centre of the image.
        torchvision's `center=[0, 0]` is `(-W / 2, -H / 2)`.
    """
    angle, shear_x, shear_y = (jnp.radians(part) for part in (angles, *shears.T))
    a = jnp.cos(angle - shear_y) / jnp.cos(shear_y)
    b = -(a * jnp.tan(shear_x) + jnp.sin(angle))
    c = jnp.sin(angle - shear_y) / jnp.cos(shear_y)
    d = jnp.cos(angle) - c * jnp.tan(shear_x)
    inverse = jnp.stack([jnp.stack([d, -b], 1), jnp.stack([-c, a], 1)], 1)
    return about(inverse / scales[:, None, None], jnp.asarray(centre, jnp.float32), translations)


def about(linear: jax.Array, centre: jax.Array, translations: jax.Array) -> jax.Array:
    """Returns the matrices of a linear map about a fixed point, followed by a translation.

    Args:
      linear: `[B, 2, 2]`, the inverse map: from offsets in the result to offsets in the image.
      centre: `[2]`, the fixed point of the linear map, relative to the centre of the image.
      translations: `[B, 2]`, pixels by which the result moves to the right and downwards.
    """
    moved = centre + translations
    offset = centre - linear[:, :, 0] * moved[:, :1] - linear[:, :, 1] * moved[:, 1:]
    return jnp.concatenate([linear, offset[:, :, None]], axis=2)


def rotation(angles: jax.Array) -> jax.Array:
    """Returns the matrices of torchvision's and Pillow's `rotate`.

    Args:
      angles: `[B]`, degrees, counter-clockwise.
    """
    zeros = jnp.zeros((angles.shape[0], 2), jnp.float32)
    return affine(-angles, zeros, jnp.ones_like(angles), zeros)


def shear(tangents: jax.Array, axis: int, height: int, width: int) -> jax.Array:
    """Returns the matrices of a shear about the top left corner, as in torchvision's policies.

    torchvision converts the tangents to degrees and back, in float64. In float32, the last bit
    would then depend on the number of images on a device.

    Args:
      tangents: `[B]`, of the angles.
      axis: 0 for a shear parallel to the x axis, 1 for the y axis.
      height: of the images.
      width: of the images.
    """
    linear = identity(len(tangents))[:, :, :2].at[:, axis, 1 - axis].set(tangents)
    corner = jnp.array([-width / 2, -height / 2], jnp.float32)
    return about(linear, corner, jnp.zeros((len(tangents), 2), jnp.float32))


def of_corner(matrices: jax.Array, height: int, width: int, corner: float = 0.0) -> jax.Array:
    """Converts matrices from an origin in the top left corner to the centre of the image.

    Args:
      matrices: `[B, 2, 3]`; Pillow's coefficients (a, b, c, d, e, f) are `[[a, b, c], [d, e, f]]`.
      height: of the images.
      width: of the images.
      corner: the coordinate of the left and the upper border: 0 for Pillow's `Image.transform`,
        -0.5 for TensorFlow, where the centre of the first pixel is 0.
    """
    centre = jnp.array([width / 2 + corner, height / 2 + corner], jnp.float32)
    linear, offset = matrices[:, :, :2], matrices[:, :, 2]
    moved = linear[:, :, 0] * centre[0] + linear[:, :, 1] * centre[1] + offset - centre
    return jnp.concatenate([linear, moved[:, :, None]], axis=2)


def warp(
    images: jax.Array,
    matrices: jax.Array,
    fill: Fill = None,
    interpolation: Interpolation = "nearest",
    style: Style = "torchvision",
    linear: jax.Array | None = None,
) -> jax.Array:
    """Warps each image by its matrix.

    Args:
      images: `[B, H, W, C]`, uint8, or float32 in the style of torchvision.
      matrices: `[B, 2, 3]`, from the result to the image; see the docstring of the module.
      fill: the pixel outside the image, one number or one for each channel. None is black. For
        torchvision, None and 0 differ in bilinear results: with a number, pixels at the border are
        weighted twice by their part inside the image, so 0 gives a darker border than None.
      interpolation: 'nearest', 'bilinear', or 'bicubic' in the style of Pillow.
      style: the library that the result equals.
      linear: `[B]` bool, only with 'bicubic': True for images with bilinear interpolation.

    Raises:
      ValueError: the style does not have this interpolation.
    """
    if interpolation not in _INTERPOLATIONS[style]:
        raise ValueError(f"{style} has no interpolation {interpolation!r}")
    x, y = _places(matrices, *images.shape[1:3])
    if interpolation == "nearest":
        return _nearest(images, x, y, fill, _ROUNDING[style])
    if style == "pillow":
        return _of_pillow(images, x, y, fill, interpolation, linear)
    return _bilinear(images, x, y, fill)


def _places(matrices: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Returns the coordinates x and y in the image of each pixel of the result, `[B, H, W]` each.

    The centre of the pixel in the top left corner is (0, 0).
    """
    right = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
    down = (np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2))[:, None]
    x, y = (
        matrices[:, row, 0, None, None] * right
        + matrices[:, row, 1, None, None] * down
        + matrices[:, row, 2, None, None]
        for row in (0, 1)
    )
    return x + (width - 1) / 2, y + (height - 1) / 2


def _half_away(places: jax.Array) -> jax.Array:
    """Rounds to integers, and halves away from zero, as in C."""
    return jnp.where(places < 0, jnp.ceil(places - 0.5), jnp.floor(places + 0.5))


_INTERPOLATIONS: dict[Style, tuple[Interpolation, ...]] = {
    "torchvision": ("nearest", "bilinear"),
    "pillow": ("nearest", "bilinear", "bicubic"),
    "tensorflow": ("nearest",),
}
_ROUNDING: dict[str, Callable[[jax.Array], jax.Array]] = {
    "torchvision": jnp.round,
    "pillow": lambda places: jnp.floor(places + 0.5),
    "tensorflow": _half_away,
}


def _pixels(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the pixels `[B, ..., C]` at `[B, ...]` rows and columns, clamped to the image."""
    count, height, width, channels = images.shape
    place = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
    flat = images.reshape(count, height * width, channels)
    return jax.vmap(lambda image, index: image.at[index].get(mode="promise_in_bounds"))(flat, place)


def _is_inside(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    _, height, width, _ = images.shape
    return (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)


def _nearest(
    images: jax.Array,
    x: jax.Array,
    y: jax.Array,
    fill: Fill,
    rounded: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    columns, rows = (rounded(place).astype(jnp.int32) for place in (x, y))
    found = _pixels(images, rows, columns)
    around = as_pixels(jnp.asarray(0 if fill is None else fill, jnp.float32), images.dtype)
    return jnp.where(_is_inside(images, rows, columns)[..., None], found, around)


def _bilinear(images: jax.Array, x: jax.Array, y: jax.Array, fill: Fill) -> jax.Array:
    """Returns torchvision's bilinear samples.

    Pixels outside the image count as 0. Then the fill is blended in by their total weight.
    """
    left, top = jnp.floor(x), jnp.floor(y)
    across, down = x - left, y - top
    first_column, first_row = left.astype(jnp.int32), top.astype(jnp.int32)
    total = jnp.zeros(images.shape, jnp.float32)
    covered = jnp.zeros_like(x)
    for row, row_share in ((first_row, 1 - down), (first_row + 1, down)):
        for column, column_share in ((first_column, 1 - across), (first_column + 1, across)):
            share = row_share * column_share * _is_inside(images, row, column)
            total += share[..., None] * _pixels(images, row, column).astype(jnp.float32)
            covered += share
    if fill is not None:
        filled = jnp.asarray(fill, jnp.float32)
        total = (total - filled) * covered[..., None] + filled
    return as_pixels(total, images.dtype)


def as_pixels(values: jax.Array, dtype: np.dtype) -> jax.Array:
    """Returns floating-point pixels in a dtype; rounded for uint8."""
    return (jnp.round(values) if dtype == jnp.uint8 else values).astype(dtype)


def _of_pillow(
    images: jax.Array,
    x: jax.Array,
    y: jax.Array,
    fill: Fill,
    interpolation: Interpolation,
    linear: jax.Array | None,
) -> jax.Array:
    """Returns Pillow's bilinear or bicubic samples, truncated to integers.

    Neighbours are clamped to the image. Samples outside the image are the fill.
    """
    taps = (0, 1) if interpolation == "bilinear" else (-1, 0, 1, 2)
    left, top = jnp.floor(x), jnp.floor(y)
    across, down = (x - left)[..., None], (y - top)[..., None]
    column, row = left.astype(jnp.int32), top.astype(jnp.int32)
    chosen = None if linear is None else linear[:, None, None, None]

    def mixed(values: list[jax.Array], share: jax.Array) -> jax.Array:
        if interpolation == "bilinear":
            return _line(values[0], values[1], share)
        cubic = _cubic(values, share)
        return (
            cubic
            if chosen is None
            else jnp.where(chosen, _line(values[1], values[2], share), cubic)
        )

    rows = [
        mixed([_pixels(images, row + j, column + i).astype(jnp.float32) for i in taps], across)
        for j in taps
    ]
    found = jnp.clip(mixed(rows, down), 0, 255).astype(images.dtype)
    inside = (x >= -0.5) & (x < images.shape[2] - 0.5) & (y >= -0.5) & (y < images.shape[1] - 0.5)
    around = as_pixels(jnp.asarray(0 if fill is None else fill, jnp.float32), images.dtype)
    return jnp.where(inside[..., None], found, around)


def _line(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    # Not as a weighted sum, so that equal pixels give that pixel, also after truncation.
    return first + (second - first) * share


def _cubic(values: list[jax.Array], share: jax.Array) -> jax.Array:
    """Interpolates between the second and the third of four values; Pillow's cubic, a = -1."""
    before, first, second, after = values
    slope = second - before
    curve = 2 * (before - first) + second - after
    twist = first - before - second + after
    return first + share * (slope + share * (curve + share * twist))
