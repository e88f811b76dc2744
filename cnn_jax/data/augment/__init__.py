"""Random augmentation of training batches on the device.

`data.augment` lists built-in augmentations by their names in `names.TABLE`, and those of the user
as 'module:attribute'. To add one, write an `Operation` and give it a name in that table.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from cnn_jax import contracts, errors, plan
from cnn_jax.data import pixels
from cnn_jax.data.augment import names, own
from cnn_jax.data.augment.moves import random_crop, random_flip
from cnn_jax.data.augment.operation import Stage, on_images
from cnn_jax.runtime import imports

__all__ = [
    "Stage",
    "Transform",
    "apply",
    "check",
    "make",
    "normalise",
    "random_crop",
    "random_flip",
    "training",
]

_FIRST_LISTED_STREAM = 100  # of the entries of data.augment, which are numbered by their place


class Transform(NamedTuple):
    """An augmentation with its place in the pipeline.

    Attributes:
      stream: the number of its stream of random numbers: 0 for `data.crop_padding`, 1 for
        `data.flip`, and 100 plus its place for an entry of `data.augment`. The numbers never
        change, so that a new augmentation leaves the random numbers of those before it as they are.
      stage: 'bytes' or 'normalised', the pixels that it takes and returns; see `operation.Stage`.
      augmentation: `(key, batch) -> batch`.
    """

    stream: int
    stage: Stage
    augmentation: contracts.Augmentation


def check(data: plan.Data) -> None:
    """Checks the config keys of augmentation, and imports the user's augmentations.

    Raises:
      UserError: a padding as large as the image, an unknown augmentation, one that cannot be
        imported, or options that are not allowed.
    """
    limit = min(data.input_shape[:2])
    if limit and not 0 <= data.crop_padding < limit:
        raise errors.UserError(
            f"data.crop_padding must be in [0, {limit}) pixels, got {data.crop_padding}"
        )
    for name, options in data.augment:
        if imports.is_reference(name):
            own.load(name, options)
        else:
            names.read(name, options)


def make(data: plan.Data, description: contracts.Description) -> tuple[Transform, ...]:
    """Returns the augmentations of a run, in the order of application.

    Args:
      data: the config section `data`.
      description: the data set.

    Raises:
      UserError: as for `check`; an augmentation is not for these images; or one of the user's
        changes the fields, shapes or dtypes of a batch.
    """
    check(data)
    made = [(name, *_listed(name, options, description)) for name, options in data.augment]
    if any(imports.is_reference(name) for name, _ in data.augment):
        own.check_results(made, description)
    listed = [
        Transform(_FIRST_LISTED_STREAM + place, stage, augmentation)
        for place, (_, stage, augmentation) in enumerate(made)
    ]
    return (*_of_keys(data), *listed)


def _of_keys(data: plan.Data) -> tuple[Transform, ...]:
    """Returns the augmentations of the config keys `data.crop_padding` and `data.flip`."""
    transforms = []
    if data.crop_padding:
        crop = functools.partial(random_crop, padding=data.crop_padding)
        transforms.append(Transform(0, "bytes", on_images(crop)))
    if data.flip:
        transforms.append(Transform(1, "bytes", on_images(random_flip)))
    return tuple(transforms)


def _listed(
    name: str, options: Mapping[str, Any], description: contracts.Description
) -> tuple[Stage, contracts.Augmentation]:
    """Returns stage and function of an entry of `data.augment`."""
    if imports.is_reference(name):
        return own.make(name, options, description)
    operation = names.read(name, options)
    return operation.stage, operation.make(description)


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
      batch: the batch, with `image` `[B, H, W, C]`, uint8 or float32 from 0 to 1.
    """
    batch = apply(transforms, "bytes", key, batch)
    return apply(transforms, "normalised", key, normalise(batch, description))


def normalise(batch: contracts.Batch, description: contracts.Description) -> contracts.Batch:
    """Returns a batch with its images normalised to float32; traceable."""
    image = pixels.normalise(batch["image"], description.mean, description.std, description.peak)
    return {**batch, "image": image}
