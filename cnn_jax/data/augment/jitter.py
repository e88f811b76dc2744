"""Random changes of colour and sharpness."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import contracts, errors, schema
from cnn_jax.data.augment import colour, filters
from cnn_jax.data.augment.operation import (
    SHARE,
    Operation,
    Stage,
    on_images,
    on_share,
    require_colours,
    span,
)

_SATURATION, _HUE = 2, 3  # in the orders of `jitter`; 0 to 2 are the blends
_BLENDS = 3


def jitter(
    images: jax.Array, orders: jax.Array, factors: jax.Array, shifts: jax.Array | None
) -> jax.Array:
    """Applies brightness, contrast, saturation and hue, in a separate order for each image.

    The result is that of torchvision's `ColorJitter` for these numbers.

    Args:
      images: `[B, H, W, C]`, uint8 or float32 in [0, 1].
      orders: `[B, 4]`, permutations of 0 (brightness), 1 (contrast), 2 (saturation) and 3 (hue).
      factors: `[B, 3]`, of brightness, contrast and saturation.
      shifts: `[B]`, of hue, in [-0.5, 0.5] of the colour circle; None leaves the hue as it is.
    """
    place = jnp.argmax(orders == _HUE, axis=1)
    # The three blends in their order: those before hue, then hue, then the others.
    blends = jnp.argsort(jnp.where(orders == _HUE, _BLENDS + 1, jnp.arange(_BLENDS + 1)), axis=1)
    blends = jnp.take_along_axis(orders, blends[:, :_BLENDS], axis=1)
    in_order = jnp.take_along_axis(factors, blends, axis=1)
    if shifts is not None:
        is_first = jnp.arange(_BLENDS) < place[:, None]
        images = _blended(images, blends, jnp.where(is_first, in_order, 1))
        images = colour.hue(images, shifts)
        in_order = jnp.where(is_first, 1, in_order)
    return _blended(images, blends, in_order)


def _blended(images: jax.Array, kinds: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends each image with black (kind 0), its mean (1) or its grey (2), one after the other.

    Args:
      images: `[B, H, W, C]`.
      kinds: `[B, steps]`.
      factors: `[B, steps]`; 1 leaves an image exactly as it is.
    """
    if images.shape[3] == 1:
        # torchvision leaves the saturation of grey images as it is; a blend would round them.
        factors = jnp.where(kinds == _SATURATION, 1, factors)
    for step in range(kinds.shape[1]):
        kind = kinds[:, step, None, None, None]
        means = colour.grey_means(images)[:, None, None, None]
        other = jnp.where(kind == 0, 0, jnp.where(kind == 1, means, colour.grey(images)))
        images = colour.blend(images, other, factors[:, step], "torchvision")
    return images


@dataclasses.dataclass(frozen=True)
class ColourJitter(Operation):
    """Random brightness, contrast, saturation and hue in random order, as `ColorJitter`.

    Factors are uniform in [1 - x, 1 + x], and at least 0.
    """

    brightness: float = schema.key(0.0, "largest change of the factor", schema.at_least(0))
    contrast: float = schema.key(0.0, "largest change of the factor", schema.at_least(0))
    saturation: float = schema.key(0.0, "largest change of the factor", schema.at_least(0))
    hue: float = schema.key(
        0.0, "largest change, as a share of the colour circle", schema.within_floats(0, 0.5)
    )
    probability: float = schema.key(1.0, "share of the images", SHARE)

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; empty if they are allowed."""
        if any((self.brightness, self.contrast, self.saturation, self.hue)):
            return ""
        return "changes nothing; set brightness, contrast, saturation or hue"

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        require_colours(description, "colour_jitter")
        return on_share(self.probability, self._change)

    def _change(self, key: jax.Array, images: jax.Array) -> jax.Array:
        count = images.shape[0]
        keys = jax.random.split(key, 3)
        orders = jnp.broadcast_to(jnp.arange(_BLENDS + 1), (count, _BLENDS + 1))
        orders = jax.random.permutation(keys[0], orders, axis=1, independent=True)
        largest = jnp.array([self.brightness, self.contrast, self.saturation])
        low, high = jnp.maximum(1 - largest, 0), 1 + largest
        factors = low + (high - low) * jax.random.uniform(keys[1], (count, _BLENDS))
        shifts = None
        if self.hue:
            shifts = jax.random.uniform(keys[2], (count,), minval=-self.hue, maxval=self.hue)
        return jitter(images, orders, factors, shifts)


@dataclasses.dataclass(frozen=True)
class RandomGrey(Operation):
    """Random conversion of images to grey, as torchvision's `RandomGrayscale`."""

    probability: float = schema.key(0.1, "share of the images", SHARE)

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        require_colours(description, "random_grey")
        return on_share(self.probability, self._change)

    def _change(self, key: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.broadcast_to(colour.grey(images), images.shape).astype(images.dtype)


@dataclasses.dataclass(frozen=True)
class RandomSharpness(Operation):
    """Random sharpening or smoothing, as torchvision's `RandomAdjustSharpness`."""

    factor: float = schema.key(2.0, "0 smooths, 1 changes nothing, 2 sharpens", schema.at_least(0))
    probability: float = schema.key(0.5, "share of the images", SHARE)

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        return on_share(self.probability, self._change)

    def _change(self, key: jax.Array, images: jax.Array) -> jax.Array:
        return filters.sharpness(images, jnp.full(images.shape[:1], self.factor))


@dataclasses.dataclass(frozen=True)
class GaussianBlur(Operation):
    """Random Gaussian blur, as torchvision's `GaussianBlur` of tensors.

    Chen et al. 2020 (arXiv:2002.05709), appendix A, blur with probability 0.5. The side of their
    kernel is a tenth of the image's side.
    """

    size: int = schema.key(23, "pixels of the kernel's sides, odd", schema.within(1, 1024))
    sigma: tuple[float, ...] = schema.key(
        (0.1, 2.0), "smallest and largest standard deviation in pixels", span(0.01, 1000)
    )
    probability: float = schema.key(0.5, "share of the images", SHARE)

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; empty if they are allowed."""
        return "" if self.size % 2 else f"size must be odd, got {self.size}"

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`.

        Raises:
          UserError: `size` is twice the shorter side of the input or more.
        """
        limit = 2 * min(description.input_shape[:2])
        if self.size >= limit:
            raise errors.UserError(
                f"data.augment 'gaussian_blur' size must be below {limit}, twice the shorter side "
                f"of the input, got {self.size}"
            )
        return on_share(self.probability, self._change)

    def _change(self, key: jax.Array, images: jax.Array) -> jax.Array:
        low, high = self.sigma
        sigmas = jax.random.uniform(key, images.shape[:1], minval=low, maxval=high)
        return filters.gaussian_blur(images, sigmas, self.size)


@dataclasses.dataclass(frozen=True)
class PcaColour(Operation):
    """Random shifts along the principal components of the training set's colours.

    Krizhevsky et al. 2012 (doi:10.1145/3065386), section 4.1. Eigenvalues and eigenvectors are
    those of the covariance of pixels in [0, 1]. The sum is added on that scale, without rounding,
    as in fb.resnet.torch's `Lighting`.
    """

    stage: ClassVar[Stage] = "normalised"
    std: float = schema.key(0.1, "standard deviation of the multiples", schema.above(0))

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`.

        Raises:
          UserError: the description of the data set has no covariance.
        """
        if not description.covariance:
            raise errors.UserError(
                "data.augment 'pca_colour' needs the covariance of the training images, and this "
                "data set's description has none; train in a new work directory"
            )
        values, vectors = np.linalg.eigh(np.array(description.covariance, np.float64))
        components = jnp.asarray(vectors * values, jnp.float32)
        std = jnp.asarray(description.std, jnp.float32)

        def change(key: jax.Array, images: jax.Array) -> jax.Array:
            multiples = self.std * jax.random.normal(key, (images.shape[0], len(values)))
            return shift_colours(images, multiples, components, std)

        return on_images(change)


def shift_colours(
    images: jax.Array, multiples: jax.Array, components: jax.Array, std: jax.Array
) -> jax.Array:
    """Adds multiples of principal components to the pixels of normalised images.

    Args:
      images: `[B, H, W, C]` float32.
      multiples: `[B, C]`, of the components.
      components: `[C, C]`, eigenvectors times eigenvalues, as columns.
      std: `[C]`, the divisor of normalisation.
    """
    shifts = jnp.sum(multiples[:, None, :] * components, axis=2) / std
    return images + shifts[:, None, None, :].astype(images.dtype)
