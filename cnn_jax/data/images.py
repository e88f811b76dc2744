"""Decoding, channel conversion and resizing of single images on the host, by Pillow."""

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageOps

from cnn_jax import errors

RESIZE = ("pad", "bilinear", "bicubic")
_FILTERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
)
INTERPOLATIONS = tuple(_FILTERS)
_MODES: Mapping[int, str] = MappingProxyType({1: "L", 3: "RGB"})
CHANNELS = tuple(_MODES)


def read_file(path: Path, channels: int) -> np.ndarray:
    """Reads an image file as an image viewer shows it, in any format of Pillow.

    Applies the EXIF orientation, looks up palettes, scales 16-bit greys to 8 bits and composites
    transparent pixels over white.

    Args:
      path: the file.
      channels: 1 for grey, 3 for RGB.

    Returns:
      `[h, w, channels]` uint8.

    Raises:
      UserError: the file is missing or is not a readable image.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return _to_array(_flat(ImageOps.exif_transpose(file)), channels)
    except FileNotFoundError as error:
        raise errors.UserError(f"{path}: no such file") from error
    # Pillow's decoders raise exceptions of many types for damaged files, such as struct.error.
    except Exception as error:
        raise errors.UserError(f"{path}: not a readable image ({error})") from error


def decode(encoded: bytes, channels: int, place: str) -> np.ndarray:
    """Decodes an image of a data set, in any format of Pillow.

    Looks up palettes. Unlike `read_file`, it ignores transparency and the EXIF orientation.

    Args:
      encoded: the content of an image file.
      channels: 1 for grey, 3 for RGB.
      place: the name of the example, for the error message.

    Returns:
      `[h, w, channels]` uint8.

    Raises:
      UserError: the bytes are not a readable image.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            # Without this step, Pillow warns about palettes with transparent entries.
            plain = picture.convert("RGBA") if picture.mode == "P" else picture
            return _to_array(plain, channels)
    except Exception as error:
        raise errors.UserError(
            f"{place}: not a readable image; it begins with {encoded[:8]!r}"
        ) from error


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
    """
    if interpolation not in _FILTERS:
        raise errors.unknown("interpolation", interpolation, INTERPOLATIONS)
    picture = _to_picture(image).resize(size[::-1], _FILTERS[interpolation])
    return _to_array(picture, image.shape[-1])


def scale_shorter(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Scales an image `[h, w, C]` so that its shorter side has `size` pixels.

    The longer side is rounded down, as in torchvision and timm.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    return stretch(image, (size * height // shorter, size * width // shorter), interpolation)


def crop_centre(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the central `[size, size, C]` of an image `[h, w, C]`.

    Offsets of half a pixel are rounded to the nearest even integer, as in torchvision and timm.
    """
    top, left = (round((length - size) / 2) for length in image.shape[:2])
    return image[top : top + size, left : left + size]


def _flat(picture: Image.Image) -> Image.Image:
    """Converts to an 8-bit image without transparency."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture, np.float64)
        # The modes I;16 hold 16 bits. Mode I holds 32 bits, whatever the depth of the file.
        deep = picture.mode != "I" or values.max(initial=0) > 255
        grey = (values / 257 if deep else values).round().clip(0, 255)
        return Image.fromarray(grey.astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture


def _to_picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _to_array(picture: Image.Image, channels: int) -> np.ndarray:
    if picture.mode == "1":
        picture = picture.convert("L")
    array = np.asarray(picture.convert(_MODES[channels]))
    return array.reshape(*array.shape[:2], channels)
