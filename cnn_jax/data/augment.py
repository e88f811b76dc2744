"""Random augmentation of training batches on the device.

To add an augmentation, write a function of a PRNG key and list it in `make` with a new stream.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import contracts, errors, plan
from cnn_jax.data import pixels

Stage = Literal["bytes", "normalised"]
"""The pixels that an augmentation takes: 0 to 255, or normalised by mean and deviation."""


class Transform(NamedTuple):
    """An augmentation with its place in the pipeline.

    Attributes:
      stream: the number of its stream of random numbers. Numbers are unique and never change, so
        that a new augmentation leaves the random numbers of the others as they are.
      stage: the pixels that it takes and returns.
      augmentation: `(key, batch) -> batch`.
    """

    stream: int
    stage: Stage
    augmentation: contracts.Augmentation


def make(data: plan.Data) -> tuple[Transform, ...]:
    """Returns the augmentations of a plan, in the order of application.

    Raises:
      UserError: a value is out of range for the image size.
    """
    transforms = []
    if data.crop_padding:
        limit = min(data.input_shape[:2])
        if not 0 <= data.crop_padding < limit:
            raise errors.UserError(
                f"data.crop_padding must be in [0, {limit}) pixels, got {data.crop_padding}"
            )
        crop = functools.partial(random_crop, padding=data.crop_padding)
        transforms.append(Transform(0, "bytes", _on_images(crop)))
    if data.flip:
        transforms.append(Transform(1, "bytes", _on_images(random_flip)))
    return tuple(transforms)


def apply(
    transforms: Sequence[Transform], stage: Stage, key: jax.Array, batch: contracts.Batch
) -> contracts.Batch:
    """Applies the augmentations of one stage to a batch; traceable.

    Args:
      transforms: the return value of `make`.
      stage: the stage that the images of `batch` are in.
      key: the PRNG key of the training step, the same for both stages.
      batch: the training batch.
    """
    for transform in transforms:
        if transform.stage == stage:
            # Streams 0 and 1 are the two keys of `jax.random.split(key)`, as in version 0.1.0.
            batch = transform.augmentation(jax.random.fold_in(key, transform.stream), batch)
    return batch


def training(
    transforms: Sequence[Transform],
    description: contracts.Description,
    key: jax.Array,
    batch: contracts.Batch,
) -> contracts.Batch:
    """Augments and normalises a training batch; traceable.

    Args:
      transforms: the return value of `make`.
      description: the data set; its mean and standard deviation are used.
      key: the PRNG key of the training step.
      batch: the batch, with `image` `[B, H, W, C]` uint8.
    """
    batch = apply(transforms, "bytes", key, batch)
    return apply(transforms, "normalised", key, normalise(batch, description))


def normalise(batch: contracts.Batch, description: contracts.Description) -> contracts.Batch:
    """Returns a batch with its images normalised to float32; traceable."""
    image = pixels.normalise(batch["image"], description.mean, description.std)
    return {**batch, "image": image}


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Pads each image with black and crops its original size at a random position.

    All positions are equally likely. He et al. 2015 (arXiv:1512.03385), section 4.2, pad by four
    pixels.

    Args:
      key: a PRNG key.
      images: `[B, H, W, C]`.
      padding: pixels on each side.
    """
    batch, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)

    return jax.vmap(crop)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image `[B, H, W, C]` left to right with probability 0.5."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def _on_images(change: Callable[[jax.Array, jax.Array], jax.Array]) -> contracts.Augmentation:
    """Returns the augmentation that replaces the images by `change(key, images)`."""
    return lambda key, batch: {**batch, "image": change(key, batch["image"])}
