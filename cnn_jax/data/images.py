"""One image at a time, on the host: decoding, channels and size."""

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
    """The picture in a PNG, JPEG or other file that Pillow reads, upright, as a person sees it.

    Palettes are looked up, 16-bit greys scaled, transparent parts shown on white, and the EXIF
    orientation applied.

    Args:
      path: the file.
      channels: 1 for grey, 3 for red, green and blue.

    Returns:
      `[h, w, channels]` uint8.

    Raises:
      ValueError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return _to_array(_flat(ImageOps.exif_transpose(file)), channels)
    except FileNotFoundError as error:
        raise errors.UserError(f"{path}: no such file") from error
    # Pillow's decoders raise whatever a damaged file leads them to, struct.error for one.
    except Exception as error:
        raise errors.UserError(f"{path}: not a readable image ({error})") from error


def convert(image: np.ndarray, channels: int) -> np.ndarray:
    """`[h, w, C]` uint8 with C 1 or 3, as grey (ITU-R 601 luma) or as red, green and blue."""
    if image.shape[-1] == channels:
        return image
    return _to_array(_to_picture(image), channels)


def fit(image: np.ndarray, image_size: int, resize: str) -> np.ndarray:
    """Bring an image to the square that the network takes.

    Args:
      image: `[h, w, C]` uint8.
      image_size: height and width of the result in pixels.
      resize: 'pad' centres it on black, unscaled; 'bilinear' and 'bicubic' scale the shorter side,
        with antialiasing, and crop the centre.

    Returns:
      `[image_size, image_size, C]` uint8.

    Raises:
      ValueError: `resize` is unknown, or 'pad' meets a larger image.
    """
    height, width, channels = image.shape
    if (height, width) == (image_size, image_size):
        return image
    if resize != "pad":
        return scale(image, (image_size, image_size), resize)
    if max(height, width) > image_size:
        raise errors.UserError(
            f"data.resize 'pad' cannot bring {height}x{width} pixels to {image_size}x{image_size}; "
            "allowed for larger images: bilinear, bicubic"
        )
    top, left = (image_size - height) // 2, (image_size - width) // 2
    canvas = np.zeros((image_size, image_size, channels), np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


def scale(image: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Scale `[h, w, C]` to cover `size` (height, width) with antialiasing, and crop the centre."""
    if resize not in _FILTERS:
        raise errors.unknown("data.resize", resize, RESIZE)
    picture = ImageOps.fit(_to_picture(image), size[::-1], _FILTERS[resize])
    return _to_array(picture, image.shape[-1])


def stretch(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Scale `[h, w, C]` to `size` (height, width) with antialiasing, whatever its proportions.

    Raises:
      ValueError: `interpolation` is not one of `INTERPOLATIONS`.
    """
    if interpolation not in _FILTERS:
        raise errors.unknown("interpolation", interpolation, INTERPOLATIONS)
    picture = _to_picture(image).resize(size[::-1], _FILTERS[interpolation])
    return _to_array(picture, image.shape[-1])


def scale_shorter(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Scale `[h, w, C]` so that the shorter side has `size` pixels; the longer is rounded down.

    This and `crop_centre` are what torchvision and timm do to Pillow's images.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    return stretch(image, (size * height // shorter, size * width // shorter), interpolation)


def crop_centre(image: np.ndarray, size: int) -> np.ndarray:
    """The `[size, size, C]` in the middle of `[h, w, C]`; halves of pixels are rounded to even."""
    top, left = (round((length - size) / 2) for length in image.shape[:2])
    return image[top : top + size, left : left + size]


def _flat(picture: Image.Image) -> Image.Image:
    """Without palette, transparency or more than eight bits."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture, np.float64)
        # The modes I;16 have 16 bits; mode I has 32, whatever the file had.
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
