"""The images that a user passes to a predictor: one image, or many."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from cnn_jax import errors

Picture = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray | jax.Array
)
"""One image: a file by its path or its content, a PIL image, or an array `[h, w, C]` or `[h, w]`.

Arrays hold uint8, or floats in [0, 1]. `images.to_pixels` has the rules."""

Pictures = Picture | Iterable[Picture]
"""One image, an array `[N, h, w, C]`, or an iterable of images, whose sizes may differ."""

_GREY_AND_COLOUR = (1, 3)


class Named(NamedTuple):
    """One image, and its name for messages."""

    place: str
    picture: Any


def split(pictures: Pictures, channels: int) -> tuple[bool, Iterator[Named]]:
    """Separates what a user passed into single images.

    An array of three axes is one image `[h, w, C]` if its last axis has 1, 3 or `channels`
    entries. Other arrays of three axes are refused, because they may be N grey images.

    Args:
      pictures: one image or many.
      channels: the channels of the network's input.

    Returns:
      True if `pictures` is one image; and the images, which are read one by one.

    Raises:
      UserError: another type, or an array of another shape.
    """
    if isinstance(pictures, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return True, iter([_named("the image", pictures)])
    if hasattr(pictures, "__array__"):  # of NumPy, JAX or PyTorch
        array = np.asarray(pictures)
        if _is_one(array.shape, channels):
            return True, iter([_named("the image", array)])
        return False, _numbered(array)
    if isinstance(pictures, Iterable) and not isinstance(pictures, dict):
        return False, _numbered(pictures)
    raise errors.UserError(
        f"images must be arrays, PIL images or paths, or a list of them, got "
        f"{type(pictures).__name__}"
    )


def chunks(pictures: Iterator[Named], size: int) -> Iterator[list[Named]]:
    """Yields the images in lists of `size`; the last one may be shorter."""
    while chunk := list(itertools.islice(pictures, size)):
        yield chunk


def _is_one(shape: tuple[int, ...], channels: int) -> bool:
    """Returns True for the shape of one image, and False for that of many."""
    if len(shape) in (2, 4):
        return len(shape) == 2
    if len(shape) == 3 and shape[-1] in {*_GREY_AND_COLOUR, channels}:
        return True
    hint = "; for N grey images [N, h, w], pass images[..., np.newaxis]" if len(shape) == 3 else ""
    raise errors.UserError(
        f"an array of images must have the shape [h, w], [h, w, C] or [N, h, w, C] with C = "
        f"{' or '.join(map(str, sorted({*_GREY_AND_COLOUR, channels})))}, got {list(shape)}{hint}"
    )


def _numbered(pictures: Iterable[Any]) -> Iterator[Named]:
    return (_named(f"image {index}", picture) for index, picture in enumerate(pictures))


def _named(place: str, picture: Any) -> Named:
    """Returns an image with its path as its name, or `place` if it has none."""
    if isinstance(picture, (str, os.PathLike)):
        return Named(os.fspath(picture), picture)
    return Named(place, picture)
