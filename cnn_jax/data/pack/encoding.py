"""The content of a record: original bytes, or an image that is scaled down and encoded again."""

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax import errors
from cnn_jax.contracts import Examples
from cnn_jax.data import images, pillow
from cnn_jax.data.sources import shards

_OPTIONS: Mapping[str, Mapping[str, int]] = MappingProxyType({"JPEG": {"quality": 95}, "PNG": {}})


def record(examples: Examples, index: int, size: int) -> tuple[bytes, str]:
    """Returns the record of an example and a warning, which is empty if there is none.

    An image that cannot be decoded, and should be scaled, is copied as it is, with a warning.

    Args:
      examples: the split.
      index: the number of the example.
      size: the largest shorter side in pixels; 0 to copy all images as they are.

    Raises:
      UserError: the image cannot be read, is an array that PNG cannot hold, or has no label.
    """
    example, name, warning = examples[index], examples.name(index), ""
    try:
        image = _encoded(example["image"], size, name)
    except errors.UnreadableImageError as error:
        image, warning = example["image"], f"copied without scaling: {error}"
    return shards.encode(_label(example["label"], name), name, image), warning


def _encoded(image: Any, size: int, place: str) -> bytes:
    """Returns the content of an image file, scaled down if its shorter side exceeds `size`."""
    if not isinstance(image, bytes):
        return _encode(_shrunk(_checked(image, place), size), "PNG")
    if not size:
        return image
    header = pillow.header(image, place)
    if min(header.width, header.height) <= size or header.is_deep:
        return image
    pixels = images.decode(image, header.channels, place)
    return _encode(_shrunk(pixels, size), "PNG" if header.format == "PNG" else "JPEG")


def _shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """Scales an image `[h, w, C]` down so that its shorter side has `size` pixels; 0 for any."""
    if not size or min(image.shape[:2]) <= size:
        return image
    return images.scale_shorter(image, size, "bicubic")


def _encode(image: np.ndarray, kind: str) -> bytes:
    """Returns the content of a file of an image `[h, w, C]` uint8; `kind` is PNG or JPEG."""
    file = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(file, kind, **_OPTIONS[kind])
    return file.getvalue()


def _checked(image: Any, place: str) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] in images.CHANNELS:
        return array
    raise errors.UserError(
        f"{place}: shards hold encoded images, or arrays [height, width, 1 or 3 channels] uint8, "
        f"which become PNGs; got {list(array.shape)} {array.dtype}"
    )


def _label(label: Any, place: str) -> int:
    if np.ndim(label) == 0:
        return int(label)
    raise errors.UserError(f"{place}: shards hold one label for each example, got {label!r}")
