"""Opening of image files with Pillow: our limits, no warnings, and pictures that are upright.

Safe to use from several threads, beside other code that uses Pillow.
"""

import contextlib
import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from cnn_jax import errors, limits
from cnn_jax.data import decoding_cost, dtypes

Convert = Callable[[Image.Image], np.ndarray]
"""Conversion of a part of a picture to an array `[h, w]` or `[h, w, C]`."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP", "AVIF")
"""The formats that are read. MPO is read as JPEG; PBM, PGM, PNM and PFM are read as PPM."""

_ORIENTATION, _PHOTOMETRIC, _BITS_PER_SAMPLE = 0x0112, 0x0106, 0x0102  # Tags of TIFF.
_UPRIGHT, _ORIENTATIONS = 1, range(1, 9)
_STRIP = 2**22  # Pixels that are converted together, so that conversions need little memory.
_limit_lock = threading.Lock()
_large_lock = threading.Lock()


class Header(NamedTuple):
    """Properties of an image file that are known before its pixels are decoded.

    Attributes:
      format: one of `FORMATS`, or 'MPO', a JPEG file that holds several pictures.
      mode: Pillow's mode of the stored pixels, such as 'RGB', 'L' or 'CMYK'.
      width: width of the stored pixels, before the orientation is applied.
      height: height of the stored pixels, likewise.
      orientation: the EXIF orientation, from 1 (upright) to 8.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int

    @property
    def is_deep(self) -> bool:
        """True for pixels of more than 8 bits."""
        return self.mode.startswith(("I", "F"))

    @property
    def channels(self) -> int:
        """1 for greys, else 3; a palette counts as colour."""
        return 1 if self.is_deep or self.mode in ("1", "L", "LA") else 3

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width after the orientation is applied."""
        size = self.height, self.width
        return size[::-1] if self.orientation >= 5 else size


class _Thread(threading.local):
    """State of a thread; `reads` is True inside the context `reading`."""

    reads = False


class _WhileReading(type):
    """Metaclass that makes every warning of a thread inside `reading` a subclass of its class.

    Deprecation warnings are left out, because they concern this code and not the image.
    """

    def __subclasscheck__(cls, category: type) -> bool:
        return _thread.reads and not issubclass(category, DeprecationWarning)


class _ReadingWarning(Warning, metaclass=_WhileReading):
    """Category of the filter that hides Pillow's warnings about metadata and sizes."""


_thread = _Thread()


@contextlib.contextmanager
def reading(encoded: bytes | None, place: str) -> Iterator[None]:
    """Context that hides Pillow's warnings and turns its errors into UnreadableImageError.

    Args:
      encoded: the content of the image file; None for a picture that is open already.
      place: the name of the image, for the error message.
    """
    # `warnings.catch_warnings` replaces the filters of all threads, and two threads that leave it
    # in another order than they entered it lose filters. This filter acts in this thread only.
    if not warnings.filters or warnings.filters[0][2] is not _ReadingWarning:
        warnings.simplefilter("ignore", _ReadingWarning)
    _thread.reads = True
    try:
        yield
    # Pillow's decoders raise exceptions of many types for damaged files, such as struct.error.
    except Exception as error:
        reason = _reason(encoded, error)
        raise errors.UnreadableImageError(f"{place}: not a readable image: {reason}") from error
    finally:
        _thread.reads = False


def _reason(encoded: bytes | None, error: Exception) -> str:
    if encoded == b"":
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError) and encoded:
        return (
            f"it begins with {encoded[:16]!r}; readable are {', '.join(FORMATS)} with an intact "
            "header"
        )
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {limits.MAX_IMAGE_PIXELS:,} pixels; scale it down"
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels"
    if str(error).startswith("decoder error"):
        return f"its pixels are damaged ({error})"
    return str(error) or type(error).__name__


def open_picture(encoded: bytes) -> ImageFile.ImageFile:
    """Opens an image file; does not decode its pixels.

    Raises:
      Exception: the header is damaged, or the format or the size is refused.
    """
    with _own_limit():
        picture = Image.open(io.BytesIO(encoded), formats=FORMATS)
    decoding_cost.check(picture, encoded)
    return picture


def header(encoded: bytes, place: str) -> Header:
    """Returns the header of an image file, without decoding its pixels.

    The orientation of a PNG file that stores it behind the pixels is given as 1.

    Args:
      encoded: the content of the file.
      place: the name of the image, for the error message.

    Raises:
      UnreadableImageError: the header is damaged, or the format or the size is refused.
    """
    with reading(encoded, place):
        picture = open_picture(encoded)
        turn = orientation(picture)
        # For TIFF, Pillow states the size of the upright picture.
        swapped = picture.format == "TIFF" and turn >= 5
        width, height = picture.size[::-1] if swapped else picture.size
        return Header(picture.format or "", picture.mode, width, height, turn)


@contextlib.contextmanager
def _own_limit() -> Iterator[None]:
    """Context in which Pillow refuses images of more than `limits.MAX_IMAGE_PIXELS`, and no others.

    Pillow's limit is global. The lock keeps two threads from restoring each other's value.
    """
    with _limit_lock:
        given = Image.MAX_IMAGE_PIXELS
        # Pillow warns above this value, and refuses images of more than twice as many pixels.
        Image.MAX_IMAGE_PIXELS = limits.MAX_IMAGE_PIXELS // 2
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = given


def orientation(picture: Image.Image) -> int:
    """Returns the EXIF orientation of a picture, 1 to 8; 1 if there is none or it is damaged.

    PNG files may store it behind the pixels; it is then known once the pixels are decoded.
    """
    found = _tiff_tags(picture).get(_ORIENTATION) or _exif(picture.info.get("exif", b""))
    return found if found in _ORIENTATIONS else _UPRIGHT


def exif_orientation(data: bytes) -> int:
    """Returns the orientation in EXIF data, 1 to 8; 1 if there is none or it is damaged."""
    found = _exif(data)
    return found if found in _ORIENTATIONS else _UPRIGHT


def _exif(data: bytes) -> int:
    """Returns the orientation in EXIF data, or 0.

    Only this tag is looked at, because other tags are often damaged or of unusual types.
    """
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return 0
    try:
        (start,) = struct.unpack_from(f"{order}4xI", data)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            # An entry has the tag, the type, the number of values, and the value in 4 bytes.
            tag, value = struct.unpack_from(f"{order}H6xH", data, offset)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:  # The data ends too early.
        pass
    return 0


def load(picture: Image.Image) -> int:
    """Decodes the pixels of a picture; returns the orientation that is to be applied to them.

    Args:
      picture: a file that `open_picture` or the caller opened. The orientation of other pictures is
        ignored: they keep the metadata of their file even after they were rotated.

    Raises:
      Exception: the file is damaged.
    """
    if not isinstance(picture, ImageFile.ImageFile):
        return _UPRIGHT
    if picture.format not in (*FORMATS, "MPO"):  # Pillow starts Ghostscript for EPS, for example.
        raise ValueError(
            f"its format is {picture.format}; readable are {', '.join(FORMATS)}. Convert it first, "
            "by picture.convert('RGB')"
        )
    turn = orientation(picture)
    if picture.format == "TIFF":
        _prepare_tiff(picture)
    _mend_transparency(picture)
    picture.load()
    # PNG files may store it behind the pixels.
    return orientation(picture) if turn == _UPRIGHT else turn


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation to an image `[h, w]` or `[h, w, C]`; returns a view."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def one_at_a_time(picture: Image.Image) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which no other thread decodes an image, if the picture is large."""
    is_large = picture.width * picture.height > limits.MAX_PARALLEL_PIXELS
    return _large_lock if is_large else contextlib.nullcontext()


def levels(picture: Image.Image, mode: str, dtype: np.dtype) -> np.ndarray:
    """Returns the stored pixels of a picture as numbers, by the rules of `images.decode`.

    Args:
      picture: the picture as it was opened, with its format and its tags, and decoded.
      mode: 'L' or 'RGB', for pictures of up to 8 bits.
      dtype: of the result: uint8, uint16 or float32.

    Returns:
      `[h, w]` or `[h, w, 3]` of `dtype`; opaque greys are `[h, w]` for any `mode`.

    Raises:
      Exception: values out of range, or a mode that Pillow cannot convert.
    """
    if picture.mode == "F":
        convert = _floats(picture)
    elif picture.mode.startswith("I"):
        convert = _integers(picture)
    else:

        def convert(strip: Image.Image) -> np.ndarray:
            opaque = _opaque(strip)
            return np.asarray(_convert(opaque, "L" if opaque.mode in ("1", "L") else mode))

    parts = (dtypes.rescale(convert(strip), dtype) for strip in _strips(picture))
    return _joined(parts, picture.im.size[1])


def _strips(picture: Image.Image) -> Iterator[Image.Image]:
    """Yields the rows of a picture in parts of about `_STRIP` pixels, with its information."""
    width, height = picture.im.size  # Of TIFF files, `picture.size` is that of the upright picture.
    rows = max(_STRIP // width, 1)
    if rows >= height and picture.size == (width, height):
        yield picture
        return
    for top in range(0, height, rows):
        yield picture.crop((0, top, width, min(top + rows, height)))


def _joined(parts: Iterable[np.ndarray], height: int) -> np.ndarray:
    """Returns arrays `[rows, ...]` as one array `[height, ...]`."""
    whole, row = np.empty(0), 0
    for part in parts:
        if len(part) == height:
            return part
        if not row:
            whole = np.empty((height, *part.shape[1:]), part.dtype)
        whole[row : row + len(part)] = part
        row += len(part)
    return whole


def _prepare_tiff(picture: ImageFile.ImageFile) -> None:
    """Keeps Pillow from reading metadata and from turning the picture while it decodes pixels.

    Pillow rewrites all metadata when it turns a picture, which fails for tags of unusual types.
    """
    exif = picture.getexif()
    for tag in list(exif):
        del exif[tag]
    with _own_limit():
        picture.load_prepare()  # Allocates the pixels, and checks the limit once more.


def _mend_transparency(picture: ImageFile.ImageFile) -> None:
    """Brings the transparent colour of a PNG file to the scale of Pillow's pixels.

    Pillow expands grey levels of 2 and 4 bits to 8 bits, and keeps the high byte of colours of 16
    bits, but leaves the transparent colour as it is stored.
    """
    colour = picture.info.get("transparency")
    if picture.format != "PNG" or colour is None:
        return
    raw_mode = picture.tile[0].args
    if raw_mode in ("L;2", "L;4"):
        picture.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[raw_mode]
    elif raw_mode == "RGB;16B":
        picture.info["transparency"] = tuple(value >> 8 for value in colour)


def _floats(picture: Image.Image) -> Convert:
    """Returns a function that converts floating-point greys to `[h, w]` float32 in [0, 1]."""
    extrema = [(part.min(), part.max()) for part in map(np.asarray, _strips(picture))]
    low, high = np.min([least for least, _ in extrema]), np.max([most for _, most in extrema])
    if not (low >= 0 and high <= 1):  # NaN fails too.
        raise ValueError(
            f"its floating-point values are from {low:g} to {high:g}; only finite values from 0 to "
            "1 are allowed: scale them, or save 16-bit integers"
        )
    invert = _white_is_zero(picture)
    return lambda strip: 1 - np.asarray(strip) if invert else np.asarray(strip)


def _integers(picture: Image.Image) -> Convert:
    """Returns a function that converts integer greys of more than 8 bits to `[h, w]` uint16.

    32-bit integers of at most 255 become uint8.
    """
    if picture.mode == "I":  # 32 bits, whatever the depth of the file.
        largest = max(np.asarray(strip).max() for strip in _strips(picture))
        if largest <= 255 and picture.format != "PPM":
            return lambda strip: np.asarray(strip).clip(0).astype(np.uint8)
        return lambda strip: np.asarray(strip).clip(0, 65535).astype(np.uint16)
    is_12_bit, invert = _is_12_bit(picture), _white_is_zero(picture)
    transparent = picture.info.get("transparency")

    def convert(strip: Image.Image) -> np.ndarray:
        values = np.asarray(strip).astype(np.uint16, copy=False)  # In this machine's byte order.
        if is_12_bit:
            values = np.rint(values * np.float32(65535 / 4095)).astype(np.uint16)
        if invert:
            values = 65535 - values
        return values if transparent is None else np.where(values == transparent, 65535, values)

    return convert


def _opaque(picture: Image.Image) -> Image.Image:
    """Composites transparent pixels over white and converts to a mode without a palette."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode in ("1", "L") else _convert(picture, "RGB")


def _convert(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)


def _white_is_zero(picture: Image.Image) -> bool:
    """Returns True for a TIFF file in which 0 is white; Pillow inverts only those of 8 bits."""
    return _tiff_tags(picture).get(_PHOTOMETRIC) == 0


def _is_12_bit(picture: Image.Image) -> bool:
    """Returns True for a TIFF file of 12-bit greys, which Pillow does not scale to 16 bits."""
    return _tiff_tags(picture).get(_BITS_PER_SAMPLE) == (12,)


def _tiff_tags(picture: Image.Image) -> Mapping[int, Any]:
    """Returns the tags of a TIFF file; empty for other formats."""
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
    return tags
