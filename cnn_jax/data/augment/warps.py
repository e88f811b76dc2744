"""Random affine maps and random resized crops on the device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from cnn_jax import contracts, schema
from cnn_jax.data.augment import erasing, geometry
from cnn_jax.data.augment.operation import (
    SHARE,
    Operation,
    fill_of,
    growing,
    on_images,
    on_share,
    pair,
    shares,
    span,
)


def resized_crop(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Scales a region of each image to the size of the image, as torchvision's `resized_crop`.

    The interpolation is bilinear. The region is cut out first, so that pixels around it have no
    effect. It is never larger than the image, so antialiasing would change nothing.

    Args:
      images: `[B, H, W, C]`, uint8 or float32.
      boxes: `[B, 4]` int32: top, left, height and width in pixels.
    """
    values = images.astype(jnp.float32)
    for axis in (0, 1):
        stretch = jax.vmap(functools.partial(_stretched, axis=axis))
        values = stretch(values, boxes[:, axis], boxes[:, axis + 2])
    return geometry.as_pixels(values, images.dtype)


def _stretched(image: jax.Array, start: jax.Array, size: jax.Array, axis: int) -> jax.Array:
    """Stretches `size` pixels of `[H, W, C]`, from `start` on, to the full length of an axis."""
    length = image.shape[axis]
    place = (jnp.arange(length) + 0.5) * (size / length) - 0.5
    place = jnp.clip(place, 0, size - 1)
    first = jnp.floor(place).astype(jnp.int32)
    second = jnp.minimum(first + 1, size - 1)
    share = jnp.expand_dims(place - first, (1 - axis, 2))
    low, high = (
        jnp.take(image, start + index, axis=axis, mode="clip") for index in (first, second)
    )
    return low + (high - low) * share


def central_box(height: int, width: int, ratio: tuple[float, ...]) -> tuple[int, int, int, int]:
    """Returns the central region that torchvision takes if no draw fits, of at least 1x1 pixels.

    It is the largest one with an allowed ratio of width to height.

    Returns:
      Top, left, height and width in pixels.
    """
    size = height, width
    if width / height < ratio[0]:
        size = max(1, round(width / ratio[0])), width
    elif width / height > ratio[1]:
        size = height, max(1, round(height * ratio[1]))
    return (height - size[0]) // 2, (width - size[1]) // 2, *size


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Operation):
    """Random regions, scaled to the input (Szegedy et al. 2015, arXiv:1409.4842).

    The rule is that of torchvision's `RandomResizedCrop`: up to ten draws, then a central region.
    `data.train_crop` 'random_resized' crops the stored image on the host; this one crops the input.
    """

    scale: tuple[float, ...] = schema.key(
        (0.08, 1.0), "smallest and largest share of the area", span(1e-6, 1)
    )
    ratio: tuple[float, ...] = schema.key(
        (3 / 4, 4 / 3), "smallest and largest ratio of width to height", growing
    )

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        return on_images(self._change)

    def _change(self, key: jax.Array, images: jax.Array) -> jax.Array:
        count, height, width, _ = images.shape
        ratio = tuple(1 / bound for bound in reversed(self.ratio))  # of height to width
        keys = jax.random.split(key, 3)
        boxes = erasing.draw(keys, (count, height, width), self.scale, ratio, is_crop=True)
        central = jnp.array(central_box(height, width, self.ratio))
        return resized_crop(images, jnp.where(boxes[:, 2:3] > 0, boxes, central))


@dataclasses.dataclass(frozen=True)
class RandomAffine(Operation):
    """Random rotation, shift, zoom and shear, as torchvision's `RandomAffine`.

    All parameters are drawn uniformly. The ranges of rotation and shears are symmetric. The map is
    that of torchvision's `functional.affine`: clockwise, about the centre of the image.
    """

    degrees: float = schema.key(0.0, "largest rotation to both sides", schema.within_floats(0, 180))
    translate: tuple[float, ...] = schema.key(
        (0.0, 0.0), "largest shifts, as shares of width and height", pair(0, 1)
    )
    scale: tuple[float, ...] = schema.key(
        (1.0, 1.0), "smallest and largest zoom; above 1 enlarges", span(0.01, 100)
    )
    shear: tuple[float, ...] = schema.key(
        (0.0, 0.0), "largest shears along x and y, in degrees", pair(0, 89)
    )
    interpolation: str = schema.key(
        "nearest", "nearest or bilinear", schema.one_of("nearest", "bilinear")
    )
    fill: tuple[float, ...] = schema.key(
        (0.0,), "pixel outside the image, in [0, 1]; empty: black, torchvision's None", shares
    )
    probability: float = schema.key(1.0, "share of the images", SHARE)

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; empty if they are allowed."""
        if any((self.degrees, *self.translate, *self.shear)) or set(self.scale) != {1.0}:
            return ""
        return "changes nothing; set degrees, translate, scale or shear"

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        fill = fill_of(self.fill, description, "random_affine")
        return on_share(self.probability, lambda key, images: self._change(key, images, fill))

    def _change(self, key: jax.Array, images: jax.Array, fill: geometry.Fill) -> jax.Array:
        count, height, width, _ = images.shape
        keys = jax.random.split(key, 4)
        angles = jax.random.uniform(keys[0], (count,), jnp.float32, -self.degrees, self.degrees)
        limits = jnp.array([self.translate[0] * width, self.translate[1] * height])
        shifts = jnp.round(limits * jax.random.uniform(keys[1], (count, 2), minval=-1))
        zooms = jax.random.uniform(keys[2], (count,), jnp.float32, *self.scale)
        shears = jnp.array(self.shear) * jax.random.uniform(keys[3], (count, 2), minval=-1)
        matrices = geometry.affine(angles, shifts, zooms, shears)
        interpolation: geometry.Interpolation = (
            "bilinear" if self.interpolation == "bilinear" else "nearest"
        )
        return geometry.warp(images, matrices, fill, interpolation)
