"""The memory and time that an image file takes to decode, known from its header and its scans."""

import re

from PIL import ImageFile

from cnn_jax import limits

_TILE_WIDTH, _TILE_HEIGHT, _STRIP_HEIGHT = 322, 323, 278  # Tags of TIFF.
_SCAN, _END = 0xDA, 0xD9  # Markers of JPEG.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG = ("JPEG", "MPO")
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}  # Bytes; others take 4.
# Further bytes of a pixel that decoders take, measured with Pillow 12: for a pixel and for each of
# its channels.
_DECODERS = {"WEBP": (12, 0), "AVIF": (9, 0), "JPEG2000": (0, 5)}
_FEW_SCANNED = 2**26  # Pixels; fewer take less than 0.1 seconds, and are not counted exactly.


def check(picture: ImageFile.ImageFile, encoded: bytes) -> None:
    """Checks that decoding stays within `limits`.

    Args:
      picture: the opened file, whose pixels are not decoded yet.
      encoded: the content of the file.

    Raises:
      ValueError: a limit is exceeded; the message names it.
    """
    width, height = picture.size
    if max(width, height) > limits.MAX_IMAGE_SIDE:
        raise ValueError(
            f"it has {height:,} x {width:,} pixels (height x width); sides of up to "
            f"{limits.MAX_IMAGE_SIDE:,} pixels are allowed"
        )
    tile = _tile(picture) if picture.format == "TIFF" else 0
    if tile > width * height + limits.MAX_TILE_PIXELS:
        raise ValueError(
            f"its tiles or strips have {tile:,} pixels each, more than {limits.MAX_TILE_PIXELS:,} "
            "beside the pixels of the image; save it again"
        )
    scans = 1
    if picture.format in _JPEG:
        scans = check_scans(encoded, width * height)
    elif picture.info.get("compression") == "jpeg":  # Of TIFF; each tile has its scans.
        check_scans(encoded, tile)
    memory = width * height * _bytes(picture, buffered=scans > 1)
    if memory > limits.MAX_DECODING_BYTES:
        raise ValueError(
            f"its {height:,} x {width:,} pixels take {memory / 2**30:.1f} GiB to decode, more than "
            f"the limit of {limits.MAX_DECODING_BYTES / 2**30:.0f} GiB; scale it down"
        )


def check_scans(encoded: bytes, pixels: int) -> int:
    """Checks that a JPEG file can be decoded in time, and returns its number of scans.

    For small images, the number is an upper bound, which is faster to find.

    Args:
      encoded: the content of the file.
      pixels: the number of pixels of a scan.

    Raises:
      ValueError: the scans take too long to decode.
    """
    scans = encoded.count(bytes((0xFF, _SCAN)))  # Thumbnails and other data count too.
    if scans > 1 and scans * pixels > _FEW_SCANNED:
        scans = _count_scans(encoded)
    if scans * pixels > limits.MAX_SCANNED_PIXELS:
        raise ValueError(
            f"its {scans:,} scans read {scans * pixels:,} pixels, more than the limit of "
            f"{limits.MAX_SCANNED_PIXELS:,}; save it again as a baseline JPEG"
        )
    return scans


def _count_scans(encoded: bytes) -> int:
    """Returns the number of scans of the first image of a JPEG file."""
    scans, position = 0, 2
    while match := _MARKER.search(encoded, position):
        marker, position = encoded[match.start() + 1], match.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        position += int.from_bytes(encoded[position : position + 2], "big")
    return scans


def _tile(picture: ImageFile.ImageFile) -> int:
    """Returns the number of pixels of a tile or strip of a TIFF file."""
    tags = getattr(picture, "tag_v2", {})
    if _TILE_WIDTH in tags:
        return int(tags[_TILE_WIDTH]) * int(tags.get(_TILE_HEIGHT, 1))
    return picture.width * min(int(tags.get(_STRIP_HEIGHT, picture.height)), picture.height)


def _bytes(picture: ImageFile.ImageFile, *, buffered: bool) -> int:
    """Returns the bytes that a pixel takes while it is decoded.

    Args:
      picture: the opened file.
      buffered: True for JPEG files of several scans, whose coefficients are all in memory.
    """
    channels = len(picture.getbands())
    of_pixel, of_channel = (0, 2) if buffered else _DECODERS.get(picture.format or "", (0, 0))
    return _STORED.get(picture.mode, 4) + of_pixel + of_channel * channels
