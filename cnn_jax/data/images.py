"""Decoding, channel conversion and resizing of single images on the host, by Pillow."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from cnn_jax import errors
from cnn_jax.data import pillow

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".gif", ".jp2", ".j2k"),
    *(".jpc", ".jpf", ".jpx", ".pnm", ".pbm", ".pgm", ".ppm", ".pfm", ".tif", ".tiff", ".webp"),
    ".avif",
)
"""The usual endings of the names of image files that `decode` reads, in lower case."""

RESIZE = ("pad", "bilinear", "bicubic")
_FILTERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
)
INTERPOLATIONS = tuple(_FILTERS)
_MODES: Mapping[int, str] = MappingProxyType({1: "L", 3: "RGB"})
CHANNELS = tuple(_MODES)
_PEAKS: Mapping[str, int] = MappingProxyType({"uint8": 255, "uint16": 65535, "float32": 1})


class Header(NamedTuple):
    """Properties of an image file that are known before its pixels are decoded.

    Attributes:
      format: one of `pillow.FORMATS`, or 'MPO', a JPEG file that holds several pictures.
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


def read_file(path: Path, channels: int) -> np.ndarray:
    """Reads an image file; see `decode`.

    Args:
      path: the file.
      channels: 1 for grey, 3 for RGB.

    Returns:
      `[h, w, channels]` uint8.

    Raises:
      UnreadableImageError: the file cannot be read, or `decode` refuses it.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise errors.UnreadableImageError(f"{path}: cannot be read: {reason}") from error
    return decode(encoded, channels, str(path))


def decode(encoded: bytes, channels: int, place: str, dtype: DTypeLike = np.uint8) -> np.ndarray:
    """Decodes an image as an image viewer shows it.

    Training, evaluation and prediction share these rules:

    - Formats: `pillow.FORMATS`, recognised by the content and not by the name. Of animations and
      files with several pages, the first picture is read.
    - Limits: `pillow.MAX_PIXELS` and `pillow.MAX_SIDE`, checked before pixels are decoded.
    - Damage: truncated and damaged files are refused, unless all pixels are intact.
    - Orientation: tag 0x0112 of EXIF or TIFF is applied. A picture whose EXIF data is damaged
      counts as upright. Other metadata and colour profiles are ignored.
    - Transparency: alpha channels, transparent palette entries and transparent colours are
      composited over white.
    - Colours: palettes are looked up. CMYK, YCCK, YCbCr and LAB are converted to RGB. Grey is the
      luma of RGB by ITU-R 601; RGB repeats grey.
    - 16-bit greys, and 12-bit greys of TIFF, are scaled to the range of `dtype`, never clipped. Of
      16-bit colours, and 16-bit greys with alpha, the high byte is read, as in Pillow.
    - 32-bit integers (Pillow's mode I) count as 8-bit greys if no value is above 255, else as
      16-bit greys. Values out of range are clipped. PPM files in this mode hold 16-bit greys.
    - Floating-point greys (TIFF, PFM) are scaled. A file with values outside [0, 1] is refused.
    - TIFF files in which 0 is white are inverted.

    Several threads may call this function at once.

    Args:
      encoded: the content of an image file.
      channels: 1 for grey, 3 for RGB.
      place: the name of the image, for the error message.
      dtype: uint8; uint16, with 8-bit values multiplied by 257; or float32, in [0, 1].

    Returns:
      `[h, w, channels]` of `dtype`.

    Raises:
      UnreadableImageError: the image is damaged, or a rule refuses it.
    """
    mode, kind = _MODES[channels], np.dtype(dtype)
    if kind.name not in _PEAKS:
        raise errors.unknown("dtype of images", kind.name, _PEAKS)
    with pillow.reading(encoded, place):
        stored = pillow.open_picture(encoded)
        picture = pillow.load_upright(stored)
        if picture.mode == "F":
            values = _floats(stored, picture)
        elif picture.mode.startswith("I"):
            values = _integers(stored, picture)
        else:
            values = np.asarray(_convert(_opaque(picture), mode))
        values = _scale_values(values, kind)
        return values if values.ndim == 3 else np.repeat(values[..., None], channels, axis=2)


def to_array(image: bytes | np.ndarray, channels: int, place: str) -> np.ndarray:
    """Returns the image of an example as an array `[h, w, channels]` uint8.

    Args:
      image: the content of an image file, or an array `[h, w, C]` uint8.
      channels: 1 or 3.
      place: the name of the example, for the error message.

    Raises:
      UnreadableImageError: the content is not a readable image.
    """
    if isinstance(image, np.ndarray):
        return convert(image, channels)
    return decode(image, channels, place)


def header(encoded: bytes, place: str) -> Header:
    """Returns the header of an image file, without decoding its pixels.

    The orientation of a PNG file that stores it behind the pixels is given as 1.

    Args:
      encoded: the content of the file.
      place: the name of the image, for the error message.

    Raises:
      UnreadableImageError: the header is damaged, or the format or the size is refused.
    """
    with pillow.reading(encoded, place):
        picture = pillow.open_picture(encoded)
        turn = pillow.orientation(picture)
        # For TIFF, Pillow states the size of the upright picture.
        swapped = picture.format == "TIFF" and turn >= 5
        width, height = picture.size[::-1] if swapped else picture.size
        return Header(picture.format or "", picture.mode, width, height, turn)


def to_input(
    image: np.ndarray,
    native_size: tuple[int, int] | None,
    input_shape: tuple[int, int, int],
    resize: str,
) -> np.ndarray:
    """Returns an image as the network's input, before normalisation.

    Images of another size than those of the data set are scaled to that size first. A network that
    is trained on small images padded with black thus sees a photograph at the same scale.

    Args:
      image: `[h, w, C]` uint8 with 1 or 3 channels.
      native_size: height and width of the stored images of the data set; None if they differ.
      input_shape: height, width and channels of the network's input.
      resize: as for `fit`. For 'pad', scaling to `native_size` is bilinear.

    Returns:
      `[H, W, C]` uint8, the shape `input_shape`.

    Raises:
      UserError: as for `fit`.
    """
    height, width, channels = input_shape
    image = convert(image, channels)
    if native_size is not None and image.shape[:2] != native_size:
        image = scale(image, native_size, "bilinear" if resize == "pad" else resize)
    return fit(image, (height, width), resize)


def convert(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts an image to grey or RGB.

    Args:
      image: `[h, w, C]` uint8 with 1 or 3 channels.
      channels: 1 for grey, the luma of ITU-R 601; 3 for RGB.

    Returns:
      `[h, w, channels]` uint8.
    """
    if image.shape[-1] == channels:
        return image
    return _to_array(_to_picture(image), channels)


def fit(image: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Brings an image to a given size.

    Args:
      image: `[h, w, C]` uint8.
      size: height and width of the result in pixels.
      resize: 'pad' centres the unscaled image on black. 'bilinear' and 'bicubic' scale the image to
        cover `size`, with antialiasing, and crop the centre.

    Returns:
      `[height, width, C]` uint8.

    Raises:
      UserError: an unknown value of `resize`, or 'pad' for an image larger than `size`.
    """
    height, width, channels = image.shape
    if (height, width) == size:
        return image
    if resize != "pad":
        return scale(image, size, resize)
    if height > size[0] or width > size[1]:
        raise errors.UserError(
            f"data.resize 'pad' cannot bring {height}x{width} pixels to {size[0]}x{size[1]}; "
            "allowed for larger images: bilinear, bicubic"
        )
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, channels), np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


def scale(image: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Scales an image to cover a size, with antialiasing, and crops the centre.

    Args:
      image: `[h, w, C]` uint8.
      size: height and width of the result in pixels.
      resize: 'bilinear' or 'bicubic'.

    Returns:
      `[height, width, C]` uint8.

    Raises:
      UserError: an unknown value of `resize`.
    """
    if resize not in _FILTERS:
        raise errors.unknown("data.resize", resize, RESIZE)
    picture = ImageOps.fit(_to_picture(image), size[::-1], _FILTERS[resize])
    return _to_array(picture, image.shape[-1])


def stretch(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Scales an image to a size, with antialiasing; the aspect ratio can change.

    Args:
      image: `[h, w, C]` uint8.
      size: height and width of the result in pixels.
      interpolation: 'bilinear' or 'bicubic'.

    Returns:
      `[height, width, C]` uint8.

    Raises:
      UserError: an unknown value of `interpolation`.
      UnreadableImageError: the result would have more than `pillow.MAX_PIXELS` pixels.
    """
    if interpolation not in _FILTERS:
        raise errors.unknown("interpolation", interpolation, INTERPOLATIONS)
    if math.prod(size) > pillow.MAX_PIXELS:
        raise errors.UnreadableImageError(
            f"cannot scale an image of {image.shape[0]:,} x {image.shape[1]:,} pixels (height x "
            f"width) to {size[0]:,} x {size[1]:,}, more than {pillow.MAX_PIXELS:,} pixels in all; "
            "crop it first"
        )
    picture = _to_picture(image).resize(size[::-1], _FILTERS[interpolation])
    return _to_array(picture, image.shape[-1])


def scale_shorter(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Scales an image `[h, w, C]` so that its shorter side has `size` pixels; see `stretch`.

    The longer side is rounded down, as in torchvision and timm.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    return stretch(image, (size * height // shorter, size * width // shorter), interpolation)


def crop_centre(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the central `[height, width, C]` of an image `[h, w, C]` that is at least as large.

    Offsets of half a pixel are rounded to the nearest even integer, as in torchvision and timm.

    Args:
      image: the image.
      size: height and width of the result in pixels.
    """
    height, width = size
    top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
    return image[top : top + height, left : left + width]


def _floats(stored: ImageFile, picture: Image.Image) -> np.ndarray:
    """Returns floating-point greys `[h, w]` float32 in [0, 1]."""
    values = np.asarray(picture)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # NaN fails too.
        raise ValueError(
            f"its floating-point values are from {low:g} to {high:g}; only finite values from 0 to "
            "1 are allowed: scale them, or save 16-bit integers"
        )
    return 1 - values if pillow.white_is_zero(stored) else values


def _integers(stored: ImageFile, picture: Image.Image) -> np.ndarray:
    """Returns greys of more than 8 bits as `[h, w]` uint16; uint8 for small 32-bit integers."""
    values = np.asarray(picture)
    if picture.mode == "I":  # 32 bits, whatever the depth of the file.
        if values.max() <= 255 and stored.format != "PPM":
            return values.clip(0).astype(np.uint8)
        return values.clip(0, 65535).astype(np.uint16)
    values = values.astype(np.uint16, copy=False)  # In the byte order of this machine.
    if pillow.is_12_bit(stored):
        values = np.rint(values * np.float32(65535 / 4095)).astype(np.uint16)
    if pillow.white_is_zero(stored):
        values = 65535 - values
    transparent = picture.info.get("transparency")
    return values if transparent is None else np.where(values == transparent, 65535, values)


def _opaque(picture: Image.Image) -> Image.Image:
    """Composites transparent pixels over white and converts to a mode without a palette."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode in ("1", "L") else _convert(picture, "RGB")


def _scale_values(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Scales values from the range of their dtype to that of another: see `_PEAKS`."""
    given, wanted = _PEAKS[values.dtype.name], _PEAKS[dtype.name]
    if values.dtype == dtype:
        return values
    if wanted == 1:
        return values / np.float32(given)
    # Quotients of these integers are never so close to a half that float32 rounds another way.
    scaled = values * np.float32(wanted / given)
    return np.rint(scaled, out=scaled).astype(dtype)


def _convert(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)


def _to_picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _to_array(picture: Image.Image, channels: int) -> np.ndarray:
    array = np.asarray(_convert(picture, _MODES[channels]))
    return array.reshape(*array.shape[:2], channels)
