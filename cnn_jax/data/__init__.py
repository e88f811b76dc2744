"""Image sets by name: `make(source="digits", ...)` gives batches for training and evaluation."""

from collections.abc import Mapping

import numpy as np
from absl import logging
from jax.sharding import Mesh

from cnn_jax import errors
from cnn_jax.data import images, splits
from cnn_jax.data.resident import Arrays, Batch, Inputs, Resident
from cnn_jax.data.sources import digits, fake, idx, tfds
from cnn_jax.data.sources.arrays import Examples, Images, Source
from cnn_jax.runtime import sharding

__all__ = ["SOURCES", "Batch", "Inputs", "Resident", "make"]

SOURCES = ("digits", "fake", "idx", "tfds")
# A set is copied to every device: what is larger wants to be streamed.
MAX_RESIDENT_BYTES = 8 * 2**30


def make(
    *,
    source: str,
    name: str,
    directory: str,
    train_split: str,
    validation_split: str,
    test_split: str,
    image_size: int,
    channels: int,
    resize: str,
    crop_padding: int,
    flip: bool,
    seed: int,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> Resident:
    """Read an image set, bring it to the network's input size and put it on the devices.

    Args:
      source: one of `SOURCES`.
      name: which set, for the sources that have several.
      directory: where it is; empty for the source's usual place.
      train_split: such as 'train[:90%]'.
      validation_split: such as 'train[90%:]'; empty for none.
      test_split: such as 'test'; empty for none.
      image_size: height and width of the network's input in pixels.
      channels: 1 for grey, 3 for colour.
      resize: 'pad', 'bilinear' or 'bicubic': see `images.fit`.
      crop_padding: random crop after padding by so many pixels; 0 for none.
      flip: whether training images are mirrored at random.
      seed: of order and augmentation of the training images.
      batch_size: of training, over all devices.
      mesh: the devices; all of them if not given.

    Raises:
      ValueError: anything above is not allowed, or the set is not there or damaged.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    sharding.check_batch_size(batch_size, mesh)
    _check(image_size, channels, resize, crop_padding)
    opened = _open(source, name, directory, image_size, channels)
    wanted = {"train": train_split, "validation": validation_split, "test": test_split}
    ranges = {key: splits.resolve(split, opened.sizes) for key, split in wanted.items() if split}
    if "train" not in ranges:
        raise errors.UserError("data.train_split is empty; try 'train'")
    _check_ranges(ranges, batch_size, image_size**2 * channels)
    stored = {key: _in_channels(opened.read(*bounds), channels) for key, bounds in ranges.items()}
    mean, std = moments(stored["train"].images)
    return Resident(
        class_names=opened.class_names,
        native_size=_common_size(stored["train"].images),
        mean=mean,
        std=std,
        splits={
            key: Arrays(
                images=sharding.replicate(_fit(part.images, image_size, resize), mesh),
                labels=sharding.replicate(part.labels, mesh),
            )
            for key, part in stored.items()
        },
        batch_size=batch_size,
        crop_padding=crop_padding,
        flip=flip,
        seed=seed,
        mesh=mesh,
    )


def moments(pictures: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images `[h, w, C]` uint8, scaled to [0, 1]."""
    count = sum(image.shape[0] * image.shape[1] for image in pictures)
    total = sum(image.sum((0, 1), dtype=np.int64) for image in pictures)
    squares = sum(np.square(image, dtype=np.int64).sum((0, 1)) for image in pictures)
    mean = total / (255 * count)
    variance = squares / (255**2 * count) - np.square(mean)
    # A channel without contrast carries nothing; one grey level keeps the quotient finite.
    std = np.maximum(np.sqrt(np.maximum(variance, 0)), 1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def _open(source: str, name: str, directory: str, image_size: int, channels: int) -> Source:
    match source:
        case "digits":
            return digits.source()
        case "fake":
            return fake.source(image_size, channels)
        case "idx":
            return idx.source(name, directory)
        case "tfds":
            return tfds.source(name, directory)
    raise errors.unknown("data.source", source, SOURCES)


def _check(image_size: int, channels: int, resize: str, crop_padding: int) -> None:
    if image_size < 1:
        raise errors.UserError(f"data.image_size must be at least 1 pixel, got {image_size}")
    if channels not in images.CHANNELS:
        raise errors.UserError(f"data.channels must be 1 or 3, got {channels}")
    if resize not in images.RESIZE:
        raise errors.unknown("data.resize", resize, images.RESIZE)
    if not 0 <= crop_padding < image_size:
        raise errors.UserError(
            f"data.crop_padding must be in [0, {image_size}) pixels, got {crop_padding}"
        )


def _check_ranges(
    ranges: Mapping[str, tuple[str, int, int]], batch_size: int, image_bytes: int
) -> None:
    stored, start, stop = ranges["train"]
    if stop - start < batch_size:
        raise errors.UserError(
            f"train.batch_size {batch_size} is larger than the {stop - start} training examples"
        )
    for key in ranges.keys() - {"train"}:
        other, first, last = ranges[key]
        if other == stored and first < stop and start < last:
            logging.warning("data.%s_split shares examples with data.train_split", key)
    total = image_bytes * sum(stop - start for _, start, stop in ranges.values())
    if total > MAX_RESIDENT_BYTES:
        raise errors.UserError(
            f"the images take {total / 2**30:.1f} GiB at data.image_size, more than the "
            f"{MAX_RESIDENT_BYTES / 2**30:.0f} GiB that are kept on a device; take a slice of the "
            "splits, such as 'train[:10%]', or a smaller data.image_size"
        )


def _in_channels(examples: Examples, channels: int) -> Examples:
    pictures = [images.convert(image, channels) for image in examples.images]
    return Examples(pictures, examples.labels)


def _fit(pictures: Images, image_size: int, resize: str) -> np.ndarray:
    return np.stack([images.fit(image, image_size, resize) for image in pictures])


def _common_size(pictures: Images) -> tuple[int, int] | None:
    sizes = {image.shape[:2] for image in pictures}
    return sizes.pop() if len(sizes) == 1 else None
