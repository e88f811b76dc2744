"""Random crops of JPEG files by OpenCV: faster than Pillow, with pixels that differ slightly.

simplejpeg decodes the same pixels as Pillow, and OpenCV scales them. Two things differ:

- A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if the crop keeps the size of the input.
  The region is then rounded to the pixels of the smaller image.
- Scaling by less than 2 is not antialiased.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.data import decoding_cost, exif, images

_REDUCTIONS = (8, 4, 2)
_SCAN, _EXIF = 0xDA, 0xE1
# Frames that libjpeg decodes by Huffman's code.
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
# Those, tables, restart intervals, application data and text.
_SEGMENTS = frozenset((*_FRAMES, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))


class Header(NamedTuple):
    """Properties of a JPEG file of 8-bit colours.

    Attributes:
      height: height of the stored pixels, before the orientation is applied.
      width: width of the stored pixels, likewise.
      orientation: the EXIF orientation, from 1 (upright) to 8.
    """

    height: int
    width: int
    orientation: int


def check() -> None:
    """Checks that simplejpeg and OpenCV are installed.

    Raises:
      UserError: one of them is not.
    """
    _simplejpeg()
    _opencv()


def read_crop(
    encoded: bytes,
    box: Callable[[int, int], tuple[int, int, int, int]],
    size: tuple[int, int],
    interpolation: str,
) -> np.ndarray | None:
    """Decodes a region of a JPEG file and scales it.

    Args:
      encoded: the content of an image file.
      box: returns top, left, height and width of the region, for height and width of the upright
        image.
      size: height and width of the result in pixels.
      interpolation: 'bilinear' or 'bicubic'.

    Returns:
      `[*size, 3]` uint8; None if the exact decoder must decide: the file is not a JPEG file of
      RGB colours, it is damaged, or it is very large.
    """
    header = read_header(encoded)
    if header is None:
        return None
    turned = header.orientation >= 5
    sides = (header.width, header.height) if turned else (header.height, header.width)
    top, left, height, width = box(*sides)
    by = reduction((height, width), size)
    decoded = _decode(encoded, header, by)
    if decoded is None or decoded.shape != (-(-header.height // by), -(-header.width // by), 3):
        return None
    rows, columns = (
        slice((start + by // 2) // by, (start + length + by // 2) // by)
        for start, length in ((top, height), (left, width))
    )
    return _scale(exif.turned(decoded, header.orientation)[rows, columns], size, interpolation)


def reduction(region: tuple[int, int], size: tuple[int, int]) -> int:
    """Returns the largest divisor 8, 4, 2 or 1 that leaves a region at least as large as `size`."""
    fits = (by for by in _REDUCTIONS if region[0] >= by * size[0] and region[1] >= by * size[1])
    return next(fits, 1)


def read_header(encoded: bytes) -> Header | None:
    """Reads the markers of a JPEG file up to its first scan.

    Returns:
      The header; None if the file is not a JPEG file of three 8-bit channels, or if its size or its
      scans exceed `limits`.
    """
    position, size, metadata = 2, (0, 0), b""
    while encoded[position : position + 1] == b"\xff" and position + 9 < len(encoded):
        marker = encoded[position + 1]
        if marker == _SCAN:
            height, width = size
            if not _is_cheap(encoded, height * width):
                return None
            return Header(height, width, exif.orientation(metadata))
        if marker not in _SEGMENTS:
            return None
        start, end = position + 4, position + 2 + _number(encoded, position + 2)
        if marker in _FRAMES:
            if encoded[start] != 8 or encoded[start + 5] != 3:  # bits and channels
                return None
            size = _number(encoded, start + 1), _number(encoded, start + 3)
        elif marker == _EXIF and encoded.startswith(b"Exif\0\0", start):
            if metadata:  # Pillow joins both parts.
                return None
            metadata = encoded[start:end]
        position = end
    return None


def _is_cheap(encoded: bytes, pixels: int) -> bool:
    """Returns True if the size and the scans of a JPEG file are allowed."""
    if not 0 < pixels <= limits.MAX_IMAGE_PIXELS:
        return False
    try:
        scans = decoding_cost.check_scans(encoded, pixels)
    except ValueError:
        return False
    return scans == 1 or pixels <= limits.MAX_PARALLEL_PIXELS


def _number(encoded: bytes, position: int) -> int:
    return int.from_bytes(encoded[position : position + 2], "big")


@functools.cache
def _opencv() -> ModuleType:
    """Returns the module of OpenCV, which uses one thread: the images of a batch are parallel."""
    try:
        import cv2
    except ImportError as error:
        raise _missing("OpenCV", "opencv-python-headless", error) from error
    cv2.setNumThreads(1)
    return cv2


@functools.cache
def _simplejpeg() -> ModuleType:
    try:
        import simplejpeg
    except ImportError as error:
        raise _missing("simplejpeg", "simplejpeg", error) from error
    module: ModuleType = simplejpeg
    return module


def _missing(name: str, package: str, error: ImportError) -> errors.UserError:
    return errors.UserError(
        f"data.decoder 'opencv' needs {name} ({error}); install it with 'pip install {package}', "
        "or set data.decoder to 'pillow'"
    )


def _decode(encoded: bytes, header: Header, by: int) -> np.ndarray | None:
    """Decodes a JPEG file at `1 / by` of its size; returns None if libjpeg warns or fails."""
    size: dict[str, Any] = {}
    if by > 1:
        size = {"min_height": -(-header.height // by), "min_width": -(-header.width // by)}
    try:
        decoded: np.ndarray = _simplejpeg().decode_jpeg(
            encoded, "RGB", fastdct=False, fastupsample=False, strict=True, **size
        )
    except ValueError:
        return None
    return decoded


def _scale(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Scales an image `[h, w, 3]`; without antialiasing if it shrinks by less than 2."""
    if max(image.shape[0] / size[0], image.shape[1] / size[1]) >= 2:
        return images.stretch(image, size, interpolation)
    cv2 = _opencv()
    method = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[interpolation]
    if image.strides[1] != image.shape[2] or image.strides[0] < 0:  # OpenCV takes no such views.
        image = np.ascontiguousarray(image)
    scaled: np.ndarray = cv2.resize(image, size[::-1], interpolation=method)
    return scaled
