"""Opening of image files with Pillow: our limits, no warnings, and pictures that are upright.

Safe to use from several threads, beside other code that uses Pillow.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from cnn_jax import errors, limits
from cnn_jax.data import decoding_cost, dtypes, exif

Convert = Callable[[Image.Image], np.ndarray]
"""Conversion of a part of a picture to an array `[h, w]` or `[h, w, C]`."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP", "AVIF")
"""The formats that are read. MPO is read as JPEG; PBM, PGM, PNM and PFM are read as PPM."""

# Tags of TIFF.
_PHOTOMETRIC, _BITS_PER_SAMPLE, _SAMPLE_FORMAT = 0x0106, 0x0102, 0x0153
_SIGNED = 2  # A value of the last of them.
_TIFF = (b"II*\0", b"MM\0*")  # The first bytes of such files.
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
        """1 for greys, else 3; see `channels`."""
        return channels(self.mode)

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width after the orientation is applied."""
        size = self.height, self.width
        return size[::-1] if self.orientation >= 5 else size


def channels(mode: str) -> int:
    """Returns 1 for Pillow's modes of greys, else 3; a palette counts as colour."""
    return 1 if mode in ("1", "L", "LA", "La") or mode.startswith(("I", "F")) else 3


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
    if isinstance(error, UnidentifiedImageError) and (encoded or b"").startswith(_TIFF):
        return (
            "its TIFF header is damaged, or its pixels are of a kind that is not read, such as "
            "64-bit or coloured floating-point numbers; save integers of 8 or 16 bits as PNG"
        )
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
        picture = Image.open(io.BytesIO(exif.without_avif(encoded)), formats=FORMATS)
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
    stored = _tiff_tags(picture).get(exif.ORIENTATION)
    return exif.checked(stored) if stored else exif.orientation(picture.info.get("exif", b""))


def one_at_a_time(picture: Image.Image) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which no other thread decodes an image, if the picture is large."""
    is_large = picture.width * picture.height > limits.MAX_PARALLEL_PIXELS
    return _large_lock if is_large else contextlib.nullcontext()


def upright(picture: Image.Image, mode: str) -> np.ndarray:
    """Decodes a picture, as its orientation shows it, by the rules of `images.decode`.

    Args:
      picture: a PIL image, opened from a file or made in memory.
      mode: 'L' or 'RGB', the mode of the result for pictures of up to 8 bits.

    Returns:
      `[h, w]` or `[h, w, 3]` uint8; opaque greys are `[h, w]` for any `mode`.

    Raises:
      Exception: the file is damaged, or a rule refuses it.
    """
    turn = _load(picture)
    return exif.turned(_levels(picture, mode), turn)


def _load(picture: Image.Image) -> int:
    """Decodes the pixels of a picture; returns the orientation that is to be applied to them.

    Args:
      picture: a file that `open_picture` or the caller opened. The orientation of other pictures is
        ignored: they keep the metadata of their file even after they were rotated.

    Raises:
      Exception: the file is damaged.
    """
    if not isinstance(picture, ImageFile.ImageFile):
        return exif.UPRIGHT
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
    return orientation(picture) if turn == exif.UPRIGHT else turn


def _levels(picture: Image.Image, mode: str) -> np.ndarray:
    """Returns the stored pixels of a picture, by the rules of `images.decode`.

    Args:
      picture: the picture as it was opened, with its format and its tags, and decoded.
      mode: 'L' or 'RGB', for pictures of up to 8 bits.

    Returns:
      `[h, w]` or `[h, w, 3]` uint8; opaque greys are `[h, w]` for any `mode`.

    Raises:
      Exception: values out of range, or a mode that Pillow cannot convert.
    """
    if _SIGNED in _tiff_tags(picture).get(_SAMPLE_FORMAT, ()):
        raise ValueError(
            "it holds integers with a sign, whose black is not defined; save integers of 8 or 16 "
            "bits without a sign"
        )
    if picture.mode == "F":
        convert = _floats(picture)
    elif picture.mode.startswith("I"):
        convert = _integers(picture)
    else:

        def convert(strip: Image.Image) -> np.ndarray:
            opaque = _opaque(strip)
            return np.asarray(_convert(opaque, "L" if opaque.mode in ("1", "L") else mode))

    parts = (dtypes.to_bytes(convert(strip)) for strip in _strips(picture))
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
    metadata = picture.getexif()
    for tag in list(metadata):
        del metadata[tag]
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
    """Returns a function that converts integer greys of more than 8 bits to `[h, w]` uint16."""
    if picture.mode == "I":  # 32 bits, whatever the depth of the file.
        if picture.format != "PPM":
            raise ValueError(
                "it holds 32-bit integers, whose white is not defined; save integers of 8 or 16 "
                "bits without a sign"
            )
        return lambda strip: np.asarray(strip).astype(np.uint16)
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
    if picture.mode == "La":  # Greys multiplied by alpha, which Pillow converts to LA only.
        picture = picture.convert("LA")
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
