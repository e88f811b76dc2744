"""Erasing of rectangles after normalisation: random erasing and cutout."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from cnn_jax import contracts, errors, schema
from cnn_jax.data.augment.operation import SHARE, Operation, Stage, growing, on_images, span

_TRIES = 10


def inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the mask of the pixels in rectangles, `[B, height, width, 1]` bool.

    Args:
      boxes: `[B, 4]` int32: top, left, height and width in pixels. A height of 0 masks nothing.
      height: of the images.
      width: of the images.
    """
    top, left, tall, wide = (boxes[:, index, None] for index in range(4))
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= top) & (rows < top + tall)
    in_columns = (columns >= left) & (columns < left + wide)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]


def erase(images: jax.Array, boxes: jax.Array, values: jax.Array | float) -> jax.Array:
    """Replaces the pixels in a rectangle of each image, as torchvision's `functional.erase`.

    Args:
      images: `[B, H, W, C]`.
      boxes: `[B, 4]`; see `inside`.
      values: the new pixels; broadcast to the images.
    """
    mask = inside(boxes, *images.shape[1:3])
    return jnp.where(mask, jnp.asarray(values).astype(images.dtype), images)


def first_fitting(
    shares: jax.Array,
    ratios: jax.Array,
    places: jax.Array,
    height: int,
    width: int,
    *,
    is_crop: bool = False,
) -> jax.Array:
    """Returns the rectangle of the first draw that fits into the image.

    The rule is torchvision's: both sides of the rectangle are rounded to pixels. With the rule of
    `RandomErasing`, also timm's, they must be smaller than the sides of the image. With the rule of
    `RandomResizedCrop`, they must be at least 1 pixel and at most the sides of the image.

    Args:
      shares: `[B, T]`, fractions of the image's area, for T draws.
      ratios: `[B, T]`, ratios of height to width.
      places: `[B, 2]`, in [0, 1): vertical and horizontal position, 0 for the first possible one.
      height: of the images.
      width: of the images.
      is_crop: True for the rule of `RandomResizedCrop`.

    Returns:
      `[B, 4]` int32: top, left, height and width; all 0 where no draw fits.
    """
    areas = shares * (height * width)
    tall = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
    wide = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
    fits = (tall < height + is_crop) & (wide < width + is_crop)
    if is_crop:
        fits &= (tall > 0) & (wide > 0)
    first = jnp.argmax(fits, axis=1)[:, None]
    sides = [jnp.take_along_axis(side, first, axis=1)[:, 0] for side in (tall, wide)]
    free = jnp.stack([height - sides[0] + 1, width - sides[1] + 1], axis=1)
    corners = jnp.minimum(jnp.floor(places * free).astype(jnp.int32), free - 1)
    boxes = jnp.concatenate([corners, jnp.stack(sides, axis=1)], axis=1)
    return jnp.where(fits.any(axis=1)[:, None], boxes, 0)


def draw(
    keys: jax.Array,
    shape: tuple[int, int, int],
    scale: tuple[float, ...],
    ratio: tuple[float, ...],
    *,
    is_crop: bool = False,
) -> jax.Array:
    """Draws a rectangle for each image, with up to ten tries.

    Shares of the area and positions are uniform. Ratios are uniform in their logarithm.

    Args:
      keys: `[3]`, PRNG keys of shares, ratios and positions.
      shape: number, height and width of the images.
      scale: the smallest and the largest share of the area.
      ratio: the smallest and the largest ratio of height to width.
      is_crop: as in `first_fitting`.

    Returns:
      `[B, 4]` int32; see `first_fitting`.
    """
    count, height, width = shape
    low, high = map(math.log, ratio)
    shares = jax.random.uniform(keys[0], (count, _TRIES), jnp.float32, *scale)
    ratios = jnp.exp(jax.random.uniform(keys[1], (count, _TRIES), jnp.float32, low, high))
    places = jax.random.uniform(keys[2], (count, 2), jnp.float32)
    return first_fitting(shares, ratios, places, height, width, is_crop=is_crop)


def spread(noise: jax.Array, boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Places noise in rectangles: row k of the noise at pixel k of the rectangle, row by row.

    Args:
      noise: `[B, P, C]`, with P at least the number of pixels of each rectangle.
      boxes: `[B, 4]`; see `inside`.
      height: of the images.
      width: of the images.

    Returns:
      `[B, height, width, C]`; the pixels beside the rectangles are arbitrary.
    """
    top, left, _, wide = (boxes[:, index, None, None] for index in range(4))
    places = (jnp.arange(height)[:, None] - top) * wide + jnp.arange(width) - left
    places = jnp.clip(places, 0, noise.shape[1] - 1)
    return jax.vmap(lambda row, place: row.at[place].get(mode="promise_in_bounds"))(noise, places)


def around(centres: jax.Array, half: jax.Array | int, height: int, width: int) -> jax.Array:
    """Returns squares around centres, clipped to the image, as in DeVries and Taylor's code.

    Args:
      centres: `[B, 2]` int32, row and column. A square has `half` pixels before this position and
        as many from it on.
      half: half the side in pixels, one number or `[B, 1]` int32.
      height: of the images.
      width: of the images.

    Returns:
      `[B, 4]` int32: top, left, height and width.
    """
    limits = jnp.array([height, width])
    first = jnp.clip(centres - half, 0, limits)
    last = jnp.clip(centres + half, 0, limits)
    return jnp.concatenate([first, last - first], axis=1)


@dataclasses.dataclass(frozen=True)
class RandomErasing(Operation):
    """Random erasing of a rectangle of each image (Zhong et al. 2017, arXiv:1708.04896).

    The rectangle is that of torchvision's and timm's `RandomErasing`: up to ten draws of an area
    and of a ratio, uniform in its logarithm. torchvision's largest ratio is 3.3, timm's 1 / 0.3.
    """

    stage: ClassVar[Stage] = "normalised"
    probability: float = schema.key(0.5, "share of the images", SHARE)
    scale: tuple[float, ...] = schema.key(
        (0.02, 0.33), "smallest and largest share of the area", span(0, 1)
    )
    ratio: tuple[float, ...] = schema.key(
        (0.3, 3.3), "smallest and largest ratio of height to width", growing
    )
    mode: str = schema.key(
        "constant",
        "new pixels: constant (the value), channel (one normal number each), or pixel (all normal)",
        schema.one_of("constant", "channel", "pixel"),
    )
    value: float = schema.key(
        0.0, "normalised pixel of the mode constant; 0 is the mean", schema.at_least(-1e6)
    )

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; empty if they are allowed."""
        if self.value and self.mode != "constant":
            return f"value is for the mode 'constant', and the mode is {self.mode!r}; leave it out"
        return ""

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        return on_images(self._change)

    def _change(self, key: jax.Array, images: jax.Array) -> jax.Array:
        count, height, width, channels = images.shape
        keys = jax.random.split(key, 5)
        boxes = draw(keys[:3], (count, height, width), self.scale, self.ratio)
        chosen = jax.random.bernoulli(keys[3], self.probability, (count, 1))
        boxes = jnp.where(chosen, boxes, 0)
        if self.mode == "pixel":
            noise = self._noise(keys[4], images)
            return erase(images, boxes, spread(noise, boxes, height, width))
        if self.mode == "channel":
            noise = jax.random.normal(keys[4], (count, 1, 1, channels), images.dtype)
            return erase(images, boxes, noise)
        return erase(images, boxes, self.value)

    def _noise(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Returns normal numbers for the pixels of the largest rectangle, `[B, pixels, C]`."""
        count, height, width, channels = images.shape
        area = self.scale[1] * height * width
        # Sides are rounded to pixels, so the area can grow by half of their sum.
        longest = math.sqrt(area * max(self.ratio[1], 1 / self.ratio[0]))
        most = min(height * width, math.ceil(area + longest + 1))
        return jax.random.normal(key, (count, most, channels), images.dtype)


@dataclasses.dataclass(frozen=True)
class Cutout(Operation):
    """Square of zeros around a random pixel of each image (DeVries & Taylor 2017).

    arXiv:1708.04552, section 3. Squares are cut off at the border, and 0 is the mean. The authors
    use 16 pixels for CIFAR-10, 8 for CIFAR-100 and 20 for SVHN.
    """

    stage: ClassVar[Stage] = "normalised"
    size: int = schema.key(16, "pixels of a side, even", schema.at_least(2, 65537))

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; empty if they are allowed."""
        return f"size must be even, got {self.size}" if self.size % 2 else ""

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`.

        Raises:
          UserError: the square covers the whole image, wherever its centre is.
        """
        if self.size >= 2 * max(description.input_shape[:2]):
            raise errors.UserError(
                f"data.augment 'cutout' size {self.size} covers every pixel of an image of "
                f"{description.input_shape[:2]} pixels; choose a smaller one"
            )
        return on_images(self._change)

    def _change(self, key: jax.Array, images: jax.Array) -> jax.Array:
        count, height, width, _ = images.shape
        limits = jnp.array([height, width])
        centres = jax.random.randint(key, (count, 2), 0, limits)
        return erase(images, around(centres, self.size // 2, height, width), 0.0)
