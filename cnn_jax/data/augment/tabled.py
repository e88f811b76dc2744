"""Random pointwise operations on uint8 images, by the lookup tables of `tables`."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cnn_jax import contracts, schema
from cnn_jax.data.augment import tables
from cnn_jax.data.augment.operation import SHARE, Operation, on_images, require_bytes


@dataclasses.dataclass(frozen=True)
class Tabled(Operation):
    """Pointwise operation that is applied to each image with a probability.

    Attributes:
      name: the name in a config.
    """

    name: ClassVar[str]
    probability: float = schema.key(0.5, "share of the images", SHARE)

    @abc.abstractmethod
    def tables(self, images: jax.Array) -> jax.Array:
        """Returns the lookup tables for uint8 images; see the module `augment.tables`."""

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        require_bytes(description, self.name)
        return on_images(self._change)

    def _change(self, key: jax.Array, images: jax.Array) -> jax.Array:
        chosen = jax.random.bernoulli(key, self.probability, (images.shape[0], 1, 1))
        changed = jnp.where(chosen, self.tables(images), tables.identity(images.shape[0]))
        return tables.apply(images, changed)


class RandomInvert(Tabled):
    """Random inversion of all values, as torchvision's `RandomInvert`."""

    name = "random_invert"

    def tables(self, images: jax.Array) -> jax.Array:
        """Returns the tables of the operation."""
        return tables.invert(images.shape[0])


@dataclasses.dataclass(frozen=True)
class RandomSolarize(Tabled):
    """Random inversion of the bright values, as torchvision's `RandomSolarize`."""

    name = "random_solarize"
    threshold: int = schema.key(128, "the smallest value to invert", schema.within(0, 256))

    def tables(self, images: jax.Array) -> jax.Array:
        """Returns the tables of the operation."""
        return tables.solarize(jnp.full(images.shape[:1], self.threshold))


@dataclasses.dataclass(frozen=True)
class RandomPosterize(Tabled):
    """Random reduction of values to their highest bits, as torchvision's `RandomPosterize`."""

    name = "random_posterize"
    bits: int = schema.key(4, "the number of bits to keep", schema.within(0, 9))

    def tables(self, images: jax.Array) -> jax.Array:
        """Returns the tables of the operation."""
        return tables.posterize(jnp.full(images.shape[:1], self.bits))


class RandomAutocontrast(Tabled):
    """Random scaling of each channel to [0, 255], as torchvision's `RandomAutocontrast`."""

    name = "random_autocontrast"

    def tables(self, images: jax.Array) -> jax.Array:
        """Returns the tables of the operation."""
        return tables.autocontrast(tables.histograms(images))


class RandomEqualize(Tabled):
    """Random equalization of each channel's histogram, as torchvision's `RandomEqualize`."""

    name = "random_equalize"

    def tables(self, images: jax.Array) -> jax.Array:
        """Returns the tables of the operation."""
        return tables.equalize(tables.histograms(images))
