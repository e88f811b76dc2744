"""Random crops of JPEG files by OpenCV: faster than Pillow, with pixels that differ slightly.

OpenCV decodes the same pixels as Pillow. Two things differ:

- A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if the crop keeps the size of the input.
  The region is then rounded to the pixels of the smaller image.
- Scaling by less than 2 is not antialiased.
"""

import functools
import re
from collections.abc import Callable
from types import ModuleType

import numpy as np

from cnn_jax import errors
from cnn_jax.data import images

_REDUCTIONS = (8, 4, 2)
_END, _SCAN = 0xD9, 0xDA
# Frames that libjpeg decodes by Huffman's code, tables, restart intervals, application data, text.
_SEGMENTS = frozenset((0xC0, 0xC1, 0xC2, 0xC4, _SCAN, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
# In a scan, 0xFF is followed by 0 for a byte 0xFF, or by 0xD0 to 0xD7 for a restart.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)


def check() -> None:
    """Checks that OpenCV is installed.

    Raises:
      UserError: it is not.
    """
    _opencv()


def read_crop(
    encoded: bytes,
    place: str,
    box: Callable[[int, int], tuple[int, int, int, int]],
    size: tuple[int, int],
    interpolation: str,
) -> np.ndarray | None:
    """Decodes a region of a JPEG file and scales it.

    Args:
      encoded: the content of an image file.
      place: the name of the image, for the error message.
      box: returns top, left, height and width of the region, for height and width of the upright
        image.
      size: height and width of the result in pixels.
      interpolation: 'bilinear' or 'bicubic'.

    Returns:
      `[*size, 3]` uint8; None if the exact decoder must decide: the file is not a JPEG file of
      RGB colours, or it is damaged.

    Raises:
      UnreadableImageError: the header is damaged, or the size is refused.
    """
    header = images.header(encoded, place)
    if header.format not in ("JPEG", "MPO") or header.mode != "RGB" or not is_whole(encoded):
        return None
    turned = header.orientation >= 5
    sides = (header.width, header.height) if turned else (header.height, header.width)
    top, left, height, width = box(*sides)
    by = reduction((height, width), size)
    decoded = _decode(encoded, by)
    if decoded is None or decoded.shape != (-(-header.height // by), -(-header.width // by), 3):
        return None
    rows, columns = (
        slice((start + by // 2) // by, (start + length + by // 2) // by)
        for start, length in ((top, height), (left, width))
    )
    return _scale(_upright(decoded, header.orientation)[rows, columns], size, interpolation)


def reduction(region: tuple[int, int], size: tuple[int, int]) -> int:
    """Returns the largest divisor 8, 4, 2 or 1 that leaves a region at least as large as `size`."""
    fits = (by for by in _REDUCTIONS if region[0] >= by * size[0] and region[1] >= by * size[1])
    return next(fits, 1)


def is_whole(encoded: bytes) -> bool:
    """Returns True if a JPEG file has valid markers from its first to its end of image.

    OpenCV accepts files that are cut off, or that have a stray marker, and fills in grey pixels.
    """
    position = 2
    while encoded[position : position + 1] == b"\xff" and position + 1 < len(encoded):
        marker = encoded[position + 1]
        if marker not in _SEGMENTS:
            return marker == _END
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker == _SCAN:
            found = _NEXT_MARKER.search(encoded, position)
            if found is None:
                return False
            position = found.start()
    return False


@functools.cache
def _opencv() -> ModuleType:
    """Returns the module of OpenCV, which uses one thread: the images of a batch are parallel."""
    try:
        import cv2
    except ImportError as error:
        raise errors.UserError(
            f"data.decoder 'opencv' needs OpenCV ({error}); install it with 'pip install "
            "opencv-python-headless', or set data.decoder to 'pillow'"
        ) from error
    cv2.setNumThreads(1)
    return cv2


def _decode(encoded: bytes, by: int) -> np.ndarray | None:
    """Decodes a JPEG file at `1 / by` of its size; returns None if OpenCV cannot."""
    cv2 = _opencv()
    reduced = {
        1: 0,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    # OpenCV has no flags for reduced RGB. Those for grey have no bit for grey, which is 0.
    flags = reduced[by] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded: np.ndarray | None = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        return None
    return decoded


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation to an image `[h, w, C]`; returns a view."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _scale(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Scales an image `[h, w, 3]`; without antialiasing if it shrinks by less than 2."""
    if max(image.shape[0] / size[0], image.shape[1] / size[1]) >= 2:
        return images.stretch(image, size, interpolation)
    cv2 = _opencv()
    method = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[interpolation]
    # OpenCV takes no views with negative strides.
    scaled: np.ndarray = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=method)
    return scaled
