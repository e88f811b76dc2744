"""Random augmentation of training batches on the device.

To add an augmentation, write a function of a PRNG key and list it in `_named` with a new stream. An
augmentation of the user's own is named in `data.augment`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax import contracts, errors, plan
from cnn_jax.data import dtypes, pixels
from cnn_jax.runtime import imports

Stage = Literal["bytes", "normalised"]
"""The pixels that an augmentation takes: stored ones, or normalised by mean and deviation.

Stored pixels are uint8 from 0 to 255, or float32 from 0 to 1, as `Description.peak` tells.
"""

_KEY = "data.augment"
_FIRST_OWN_STREAM = 100  # of the user's augmentations, which are numbered by their place
_STAGES: tuple[Stage, ...] = ("bytes", "normalised")


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


def check(data: plan.Data) -> None:
    """Checks the keys of augmentation, and imports the user's augmentations.

    Raises:
      UserError: a padding as large as the image, or an augmentation that cannot be imported or does
        not take its options.
    """
    limit = min(data.input_shape[:2])
    if limit and not 0 <= data.crop_padding < limit:
        raise errors.UserError(
            f"data.crop_padding must be in [0, {limit}) pixels, got {data.crop_padding}"
        )
    for name, options in data.augment:
        _load(name, options)


def make(data: plan.Data, description: contracts.Description) -> tuple[Transform, ...]:
    """Returns the augmentations of a plan, in the order of application.

    Args:
      data: the keys of the data set.
      description: the data set, for the user's augmentations.

    Raises:
      UserError: as for `check`, or an augmentation of the user's that does not return a batch of
        the form that it took.
    """
    check(data)
    own = [
        _own(name, options, _FIRST_OWN_STREAM + place, description)
        for place, (name, options) in enumerate(data.augment)
    ]
    _check_results(own, [name for name, _ in data.augment], description)
    return (*_named(data), *own)


def _named(data: plan.Data) -> tuple[Transform, ...]:
    """Returns the augmentations that have keys of their own."""
    transforms = []
    if data.crop_padding:
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
      batch: the batch, with `image` `[B, H, W, C]`, uint8 or float32 from 0 to 1.
    """
    batch = apply(transforms, "bytes", key, batch)
    return apply(transforms, "normalised", key, normalise(batch, description))


def normalise(batch: contracts.Batch, description: contracts.Description) -> contracts.Batch:
    """Returns a batch with its images normalised to float32; traceable."""
    image = pixels.normalise(batch["image"], description.mean, description.std, description.peak)
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


def _load(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Imports the factory of an augmentation: `factory(description, **options)`.

    Raises:
      UserError: it cannot be imported or called, or does not take the options.
    """
    factory = imports.load(name, _KEY)
    if not callable(factory):
        raise errors.UserError(
            f"{_KEY} {name!r} is {factory!r}, which cannot be called; name a function "
            "(description, **options) -> ((key, batch) -> batch)"
        )
    try:
        inspect.signature(factory).bind(None, **options)
    except TypeError as error:
        raise errors.UserError(
            f"{_KEY} {name!r} is called as factory(description, **options) with the options "
            f"{dict(options)}, and does not take them: {error}"
        ) from error
    except ValueError:  # Some compiled functions have no signature.
        pass
    return factory


def _own(
    name: str, options: Mapping[str, Any], stream: int, description: contracts.Description
) -> Transform:
    """Returns an augmentation of the user's; its attribute `stage` is 'normalised' by default."""
    factory = _load(name, options)
    made = factory(description, **options)
    stage = getattr(made, "stage", getattr(factory, "stage", "normalised"))
    if stage not in _STAGES:
        raise errors.unknown(f"stage of {_KEY} {name!r}", stage, _STAGES)
    if not callable(made):
        raise errors.UserError(
            f"{_KEY} {name!r} returns {made!r} for (description, **options); it must return a "
            "function (key, batch) -> batch"
        )
    return Transform(stream, stage, made)


def _check_results(
    own: Sequence[Transform], names: Sequence[str], description: contracts.Description
) -> None:
    """Checks that users' augmentations return batches with the fields, shapes and dtypes they got.

    They are traced by `jax.eval_shape`; nothing is computed.

    Raises:
      UserError: the result is no batch, or a field is missing or has another shape or dtype.
    """
    shape = (2, *description.input_shape)
    batch: Any = {
        "image": jax.ShapeDtypeStruct(shape, dtypes.of_peak(description.peak)),
        "label": jax.ShapeDtypeStruct(shape[:1], np.int32),
        "weight": jax.ShapeDtypeStruct(shape[:1], np.float32),
    }
    key = jax.eval_shape(jax.random.key, 0)
    for stage in _STAGES:
        if stage == "normalised":
            batch = {**batch, "image": jax.ShapeDtypeStruct(shape, np.float32)}
        for transform, name in zip(own, names, strict=True):
            if transform.stage == stage:
                batch = _result(transform.augmentation, key, batch, f"{_KEY} {name!r}")


def _result(
    augmentation: contracts.Augmentation, key: Any, batch: Any, title: str
) -> dict[str, Any]:
    """Returns the form of the result of an augmentation, checked."""
    try:
        found = jax.eval_shape(augmentation, key, batch)
    except Exception as error:
        error.add_note(f"raised by {title}, traced with a batch of 2")
        raise
    _check_form(title, batch, found)
    return found


def _check_form(title: str, given: Mapping[str, Any], found: Any) -> None:
    if not isinstance(found, dict):
        kind = "an array" if hasattr(found, "shape") else type(found).__name__
        raise errors.UserError(
            f"{title} returns {kind}; it must return a batch, a dictionary with the fields "
            f"{', '.join(given)}, such as {{**batch, 'image': image}}"
        )
    for field, expected in given.items():
        now = found.get(field)
        if _form(now) != _form(expected):
            got = "is missing" if now is None else f"is {_form(now)}"
            raise errors.UserError(
                f"{title} must keep shape and dtype of each field: for a batch of 2, {field!r} "
                f"{got}, and it was {_form(expected)}; return {{**batch, 'image': image}} with "
                "image.astype(batch['image'].dtype)"
            )


def _form(array: Any) -> str:
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    return type(array).__name__ if shape is None else f"{list(shape)} {dtype}"
