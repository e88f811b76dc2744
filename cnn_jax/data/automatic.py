"""Properties of a source's images: dtype, channels and size, for automatic values of a plan."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Examples
from cnn_jax.data import images, pillow, selection
from cnn_jax.data.sources.arrays import ArrayExamples
from cnn_jax.plan import Data

LOOKED_AT = 16
"""The number of images that stand for a split whose images are not in memory."""
_TRIED = 1000  # examples that are read to find readable ones


class _Image(NamedTuple):
    """The properties of an image.

    Attributes:
      dtype: uint8 or float32.
      shape: height, width and channels.
      place: the name of the example.
    """

    dtype: np.dtype
    shape: tuple[int, int, int]
    place: str


def dtype_of(examples: Examples) -> np.dtype:
    """Returns the dtype of the images of a split: that of its first readable image, or uint8."""
    first = next(_look(examples), None)
    return np.dtype(np.uint8) if first is None else first.dtype


def resolve(data: Data, examples: Examples) -> Data:
    """Replaces the automatic values of `data.channels` and `data.image_size`, and of the crops.

    Args:
      data: the keys of the data set.
      examples: the training split.

    Raises:
      UserError: images of different sizes, or no image can be read.
    """
    data = with_crops(data)
    if data.channels and data.image_size:
        return data
    found = list(_look(examples))
    if not found:
        raise errors.UserError(
            "no training image can be read, to take data.image_size and data.channels from; set "
            "both, or mend the files"
        )
    if not data.channels:
        data = dataclasses.replace(data, channels=max(image.shape[-1] for image in found))
    if not data.image_size:
        height, width = _common_size(found)
        data = dataclasses.replace(
            data, image_size=height, image_width=0 if width == height else width
        )
    return data


def with_crops(data: Data) -> Data:
    """Replaces the automatic values of `data.resize` and `data.eval_crop`.

    A run that starts from weights has replaced them already.
    """
    return dataclasses.replace(
        data, resize=data.resize or "bilinear", eval_crop=data.eval_crop or "fit"
    )


def _common_size(found: list[_Image]) -> tuple[int, int]:
    first = found[0]
    for other in found:
        if other.shape[:2] != first.shape[:2]:
            sizes = (
                f"{image.place} has {image.shape[0]}x{image.shape[1]}" for image in (first, other)
            )
            raise errors.UserError(
                "data.image_size 0 takes the size of the images, but they differ: "
                f"{', '.join(sizes)} pixels (height x width); set data.image_size to the height of "
                "the network's input, and data.resize to bilinear or bicubic to scale the images"
            )
    return first.shape[:2]


def _look(examples: Examples) -> Iterator[_Image]:
    """Yields the properties of all images in memory, or of the first `LOOKED_AT` readable ones."""
    stored = examples
    while isinstance(stored, selection.Selected):
        stored = stored.examples
    places = range(len(examples))
    if not isinstance(stored, ArrayExamples):
        readable = (_properties(examples, index) for index in places[:_TRIED])
        yield from itertools.islice((found for found in readable if found is not None), LOOKED_AT)
        return
    if isinstance(stored.images, np.ndarray):  # All are alike.
        places = places[:1]
    for index in places:
        image = examples[index]["image"]
        yield _Image(image.dtype, (*image.shape,), examples.name(index))


def _properties(examples: Examples, index: int) -> _Image | None:
    """Returns the properties of an example's image; None if it cannot be read."""
    place = examples.name(index)
    try:
        image = examples[index]["image"]
        if not isinstance(image, bytes):
            array = images.checked(image, place)
            return _Image(array.dtype, (*array.shape,), place)
        header = pillow.header(image, place)
    except errors.UnreadableImageError:
        return None
    return _Image(np.dtype(np.uint8), (*header.upright_size, header.channels), place)
