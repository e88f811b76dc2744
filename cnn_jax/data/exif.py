"""The orientation tag of EXIF data, read without the other tags, which are often damaged."""

import re
import struct
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

ORIENTATION = 0x0112
UPRIGHT = 1
_ORIENTATIONS = range(1, 9)
# Integers by type, as 'TIFF Revision 6.0' of Aldus, page 15, numbers the types.
_INTEGERS: Mapping[int, str] = MappingProxyType(
    {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"},
)
# The entry of an item in an AVIF file (ISO/IEC 23008-12, box 'infe'): version, flags, number of
# the item with 2 bytes or 4, index of its protection, and the type of the item.
_AVIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)


def orientation(data: bytes) -> int:
    """Returns the orientation in EXIF data, 1 to 8; 1 if there is none or it is damaged."""
    return checked(_stored(data))


def checked(found: object) -> int:
    """Returns the value of an orientation tag, or 1 if it is not from 1 to 8."""
    return found if isinstance(found, int) and found in _ORIENTATIONS else UPRIGHT


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an orientation to an image `[h, w]` or `[h, w, C]`; returns a view."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def without_avif(encoded: bytes) -> bytes:
    """Hides the EXIF data of an AVIF file from Pillow; returns other files as they are.

    The orientation of an AVIF picture is in its boxes 'irot' and 'imir' only. Pillow copies it into
    the EXIF data, and fails if another tag of the EXIF data has an unusual type.
    """
    return _AVIF_ITEM.sub(rb"\1skip", encoded) if encoded[4:8] == b"ftyp" else encoded


def _stored(data: bytes) -> int:
    """Returns the value of the orientation tag in EXIF data, or 0 if the tag is absent."""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return 0
    try:
        (start,) = struct.unpack_from(f"{order}4xI", data)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            # An entry has the tag, the type, the number of values, and the value in 4 bytes.
            tag, kind = struct.unpack_from(f"{order}HH8x", data, offset)
            if tag == ORIENTATION:
                (value,) = struct.unpack_from(
                    f"{order}{_INTEGERS.get(kind, 'H')}", data, offset + 8
                )
                return int(value)
    except struct.error:  # The data ends too early.
        pass
    return 0
