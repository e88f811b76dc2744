"""Decoding, channel conversion and resizing of single images on the host, by Pillow.

Images in memory are uint8 from 0 to 255, or float32 from 0 to 1, with any number of channels.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cnn_jax import errors, limits
from cnn_jax.data import dtypes, pillow
from cnn_jax.runtime import files

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
MAX_CHANNELS = 16
# The luma of ITU-R 601 with the weights of Pillow, whose sum is exactly 1.
_LUMA = np.array([19595, 38470, 7471], np.float32) / np.float32(65536)


def read_file(path: str | os.PathLike[str], channels: int) -> np.ndarray:
    """Reads an image file; see `decode`.

    Args:
      path: the file.
      channels: 1 for grey, 3 for RGB.

    Returns:
      `[h, w, channels]` uint8.

    Raises:
      UnreadableImageError: the file cannot be read, or `decode` refuses it.
      UserError: as for `decode`.
    """
    try:
        encoded = files.content(Path(path).expanduser(), limits.MAX_IMAGE_BYTES)
    except (OSError, RuntimeError, ValueError) as error:  # The latter of '~nobody' and '\0'.
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.UnreadableImageError(f"{path}: cannot be read: {reason}") from error
    return decode(encoded, channels, str(path))


def decode(encoded: bytes, channels: int, place: str) -> np.ndarray:
    """Decodes an image as an image viewer shows it.

    Training, evaluation and prediction share these rules:

    - Formats: `pillow.FORMATS`, recognised by the content and not by the name. Of animations and
      files with several pages, the first picture is read.
    - Limits: those of `cnn_jax.limits`, checked before pixels are decoded.
    - Damage: truncated and damaged files are refused, unless all pixels are intact.
    - Orientation: tag 0x0112 of EXIF or TIFF is applied, and the boxes that turn an AVIF picture. A
      picture whose EXIF data is damaged counts as upright. Other metadata and colour profiles are
      ignored.
    - Transparency: alpha channels, transparent palette entries and transparent colours are
      composited over white.
    - Colours: palettes are looked up. CMYK, YCCK, YCbCr and LAB are converted to RGB. Grey is the
      luma of RGB by ITU-R 601; RGB repeats grey.
    - 16-bit greys, and 12-bit greys of TIFF, are scaled to 8 bits, never clipped. Of 16-bit
      colours, and 16-bit greys with alpha, the high byte is read, as in Pillow.
    - Integers with a sign, and those of 32 bits, are refused: their black or white is not defined.
    - Floating-point greys (TIFF, PFM) are scaled. A file with values outside [0, 1] is refused.
    - TIFF files in which 0 is white are inverted.

    Several threads may call this function at once.

    Args:
      encoded: the content of an image file.
      channels: 1 for grey, 3 for RGB.
      place: the name of the image, for the error message.

    Returns:
      `[h, w, channels]` uint8.

    Raises:
      UnreadableImageError: the image is damaged, or a rule refuses it.
      UserError: another number of channels.
    """
    mode = _mode(channels, place)
    with pillow.reading(encoded, place):
        picture = pillow.open_picture(encoded)
        with pillow.one_at_a_time(picture):
            values = pillow.upright(picture, mode)
    return _with_channels(values, channels)


def to_array(image: bytes | np.ndarray, channels: int, place: str) -> np.ndarray:
    """Returns the image of an example as an array `[h, w, channels]`, uint8 or float32.

    Args:
      image: the content of an image file, or an array as for `checked`.
      channels: the wanted number; see `convert`.
      place: the name of the example, for the error message.

    Raises:
      UnreadableImageError: the content is not a readable image.
      UserError: as for `checked` and `convert`.
    """
    if isinstance(image, bytes):
        return decode(image, channels, place)
    return convert(checked(image, place), channels, place)


def to_pixels(image: Any, channels: int, place: str = "image") -> np.ndarray:
    """Converts an image in any form that Python code has it in.

    Args:
      image: an array `[h, w]` or `[h, w, C]` of NumPy, JAX or PyTorch, uint8, bool or floating
        point in [0, 1]; a picture of Pillow; the path of an image file; or the content of one. For
        pictures, paths and contents, the rules of `decode` hold. A picture that is not as
        `PIL.Image.open` returned it is not turned.
      channels: the wanted number. Grey and colour are converted into each other: see `convert`.
      place: the name of the image, for the error message.

    Returns:
      `[h, w, channels]`, float32 in [0, 1] for floating-point arrays, else uint8.

    Raises:
      UserError: the image has another shape, dtype or number of channels, or cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_file(image, channels)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode(bytes(image), channels, place)
    if isinstance(image, Image.Image):
        mode = _mode(channels, place)
        with pillow.reading(None, place):
            values = pillow.upright(image, mode)
        return _with_channels(values, channels)
    return convert(checked(image, place), channels, place)


def checked(image: Any, place: str) -> np.ndarray:
    """Returns an array as an image `[h, w, C]`, uint8 or float32.

    Args:
      image: `[h, w]` or `[h, w, C]`, of a dtype that `dtypes.as_pixels` accepts; or a picture of
        Pillow, which is read by the rules of `decode` and becomes grey or RGB.
      place: the name of the image, for the error message.

    Raises:
      UserError: another shape or dtype, or values out of range.
    """
    if isinstance(image, Image.Image):  # NumPy would read the indices of a palette, for example.
        return to_pixels(image, pillow.channels(image.mode), place)
    pixels = dtypes.as_pixels(image, place)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    check_shape(pixels.shape, place)
    return pixels


def check_shape(shape: tuple[int, ...], place: str) -> None:
    """Checks the shape of an image.

    Raises:
      UserError: it is not `[h, w, C]` with 1 to `MAX_CHANNELS` channels.
    """
    # Few pixels in the order of torch, [C, h, w], are also an image of many channels.
    channels_first = len(shape) == 3 and shape[0] in CHANNELS and 4 <= shape[1] == shape[2]
    if len(shape) == 3 and min(shape) > 0 and shape[-1] <= MAX_CHANNELS and not channels_first:
        return
    hint = ""
    if channels_first or (len(shape) == 3 and 0 < shape[0] <= MAX_CHANNELS < shape[-1]):
        hint = "; channels come last: numpy.moveaxis(image, 0, -1)"
    elif len(shape) == 4:
        hint = "; this is a batch, and one image is wanted"
    raise errors.UserError(
        f"{place} must have shape [height, width] or [height, width, channels] with 1 to "
        f"{MAX_CHANNELS} channels, got {list(shape)}{hint}"
    )


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
      image: `[h, w, C]`, uint8 or float32; see `convert` for other numbers of channels.
      native_size: height and width of the stored images of the data set; None if they differ.
      input_shape: height, width and channels of the network's input.
      resize: as for `fit`. For 'pad', scaling to `native_size` is bilinear.

    Returns:
      `[H, W, C]`, the shape `input_shape`, of the dtype of `image`.

    Raises:
      UserError: as for `fit`.
    """
    height, width, channels = input_shape
    image = convert(image, channels)
    if native_size is not None and image.shape[:2] != native_size:
        image = scale(image, native_size, "bilinear" if resize == "pad" else resize)
    return fit(image, (height, width), resize)


def convert(image: np.ndarray, channels: int, place: str = "image") -> np.ndarray:
    """Converts an image between grey and RGB.

    Args:
      image: `[h, w, C]`, uint8 or float32.
      channels: 1 for grey, the luma of ITU-R 601; 3 for RGB, which repeats grey; or C.
      place: the name of the image, for the error message.

    Returns:
      `[h, w, channels]` of the dtype of `image`.

    Raises:
      UserError: another number of channels than C that cannot be converted.
    """
    given = image.shape[-1]
    if given == channels:
        return image
    if {given, channels} != {*CHANNELS}:
        hint = "; PIL.Image.fromarray(image) is read over white" if given == 4 else ""
        raise errors.UserError(
            f"{place} has {given} channels (shape {list(image.shape)}), but {channels} are wanted "
            f"by data.channels or the network; only 1 and 3 are converted into each other{hint}"
        )
    if channels == 3:
        return _with_channels(image, channels)
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).convert("L"))[..., np.newaxis]
    red, green, blue = np.moveaxis(image, -1, 0)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return np.minimum(luma, 1)[..., np.newaxis]


def fit(image: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Brings an image to a given size.

    Args:
      image: `[h, w, C]`, uint8 or float32.
      size: height and width of the result in pixels.
      resize: 'pad' centres the unscaled image on black. 'bilinear' and 'bicubic' scale the image to
        cover `size`, with antialiasing, and crop the centre.

    Returns:
      `[height, width, C]` of the dtype of `image`.

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
    canvas = np.zeros((*size, channels), image.dtype)
    canvas[top : top + height, left : left + width] = image
    return canvas


def scale(image: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Scales an image to cover a size, with antialiasing, and crops the centre.

    Args:
      image: `[h, w, C]`, uint8 or float32.
      size: height and width of the result in pixels.
      resize: 'bilinear' or 'bicubic'.

    Returns:
      `[height, width, C]` of the dtype of `image`.

    Raises:
      UserError: an unknown value of `resize`.
    """
    if resize not in _FILTERS:
        raise errors.unknown("data.resize", resize, RESIZE)
    method = _FILTERS[resize]
    return _change(image, lambda picture: ImageOps.fit(picture, size[::-1], method))


def stretch(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Scales an image to a size, with antialiasing; the aspect ratio can change.

    Args:
      image: `[h, w, C]`, uint8 or float32.
      size: height and width of the result in pixels.
      interpolation: 'bilinear' or 'bicubic'.

    Returns:
      `[height, width, C]` of the dtype of `image`.

    Raises:
      UserError: an unknown value of `interpolation`.
      UnreadableImageError: the result would have more than `limits.MAX_IMAGE_PIXELS` pixels.
    """
    if interpolation not in _FILTERS:
        raise errors.unknown("interpolation", interpolation, INTERPOLATIONS)
    if math.prod(size) > limits.MAX_IMAGE_PIXELS:
        raise errors.UnreadableImageError(
            f"cannot scale an image of {image.shape[0]:,} x {image.shape[1]:,} pixels (height x "
            f"width) to {size[0]:,} x {size[1]:,}, more than {limits.MAX_IMAGE_PIXELS:,} pixels in "
            "all; crop it first"
        )
    method = _FILTERS[interpolation]
    return _change(image, lambda picture: picture.resize(size[::-1], method))


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


def pictures(image: np.ndarray) -> list[Image.Image]:
    """Returns an image `[h, w, C]` as pictures of Pillow.

    They are one picture for colours of uint8, and else one for each channel, of mode 'L' or 'F'.
    """
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return [Image.fromarray(image)]
    return [Image.fromarray(image[..., channel]) for channel in range(image.shape[-1])]


def _change(image: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Returns an image `[h, w, C]` after a change of its pictures."""
    # A view of `_with_channels` has equal channels.
    if image.shape[-1] > 1 and image.strides[-1] == 0:
        return _with_channels(_change(image[..., :1], change), image.shape[-1])
    parts = [np.asarray(change(picture)) for picture in pictures(image)]
    changed = parts[0] if parts[0].ndim == 3 else np.stack(parts, -1)
    # Bicubic interpolation overshoots. Pillow clips uint8 itself.
    return changed if changed.dtype == np.uint8 else changed.clip(0, 1)


def _with_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """Returns greys `[h, w]` or `[h, w, 1]` with repeated channels, as a view; RGB as it is."""
    if values.ndim == 2:
        values = values[..., np.newaxis]
    # A copy of a large photograph would take as much memory as the decoded file.
    return np.broadcast_to(values, (*values.shape[:2], channels))


def _mode(channels: int, place: str) -> str:
    """Returns Pillow's mode for a number of channels.

    Raises:
      UserError: image files are not read with this number of channels.
    """
    if channels not in _MODES:
        raise errors.UserError(
            f"{place}: image files and pictures are read as grey (1 channel) or colour (3), but "
            f"{channels} channels are wanted; give arrays [height, width, {channels}]"
        )
    return _MODES[channels]
