"""Crops and mirroring that move whole pixels."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import contracts, errors, schema
from cnn_jax.data.augment.operation import SHARE, Operation, on_images


def random_crop(
    key: jax.Array, images: jax.Array, padding: int, mode: str = "constant"
) -> jax.Array:
    """Pads each image and crops its original size at a random position.

    All positions are equally likely. He et al. 2015 (arXiv:1512.03385), section 4.2, pad by four
    black pixels. Zagoruyko and Komodakis 2016 (arXiv:1605.07146), section 3, pad with reflections.

    Args:
      key: a PRNG key.
      images: `[B, H, W, C]`.
      padding: pixels on each side.
      mode: 'constant' for black, or 'reflect' for mirror images without the border pixel.
    """
    batch, *shape = images.shape
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, margins, mode=mode)
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)

    return jax.vmap(crop)(padded, corners)


def random_flip(
    key: jax.Array, images: jax.Array, probability: float = 0.5, *, vertical: bool = False
) -> jax.Array:
    """Mirrors each image `[B, H, W, C]` left to right, or upside down, with a probability."""
    mirrored = jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, jnp.flip(images, 1 if vertical else 2), images)


@dataclasses.dataclass(frozen=True)
class RandomCrop(Operation):
    """Random crops of padded images; see `random_crop`."""

    padding: int = schema.key(4, "pixels on each side", schema.at_least(1, 4096))
    mode: str = schema.key(
        "constant", "constant (black) or reflect", schema.one_of("constant", "reflect")
    )

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        limit = min(description.input_shape[:2])
        if self.padding >= limit:
            raise errors.UserError(
                f"data.augment 'random_crop' padding must be below {limit}, the shorter side of "
                f"the input, got {self.padding}"
            )
        return on_images(functools.partial(random_crop, padding=self.padding, mode=self.mode))


@dataclasses.dataclass(frozen=True)
class RandomFlip(Operation):
    """Random mirroring, left to right or upside down; see `random_flip`."""

    probability: float = schema.key(0.5, "share of the images", SHARE)
    vertical: bool = schema.key(False, "upside down, in place of left to right")

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        flip = functools.partial(random_flip, probability=self.probability, vertical=self.vertical)
        return on_images(flip)
