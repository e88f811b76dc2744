"""Crops of training and evaluation on the host, by NumPy and Pillow.

The pixels equal those of torchvision's transforms of Pillow images. The decoder 'opencv' is the
exception; see `opencv.py`.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.contracts import Description
from cnn_jax.data import images, opencv
from cnn_jax.plan import Data

Size = tuple[int, int]
"""Height and width in pixels."""

CROP_SHARE = 0.875  # of the shorter side, for `data.shorter_side` 0: 224 of 256 pixels
_TRIES = 10


class Box(NamedTuple):
    """A rectangle of pixels in an image."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Returns the pixels of an image `[h, w, C]` in the rectangle, as a view."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def random_resized_box(
    height: int,
    width: int,
    scale: tuple[float, ...],
    ratio: tuple[float, ...],
    rng: np.random.Generator,
) -> Box:
    """Returns the region of Inception's random crop (Szegedy et al. 2015, arXiv:1409.4842).

    The draws and their order are those of torchvision's `RandomResizedCrop.get_params`: up to ten
    times a share of the area, uniform, and a ratio of width to height, uniform in its logarithm;
    then a uniform position. If none of the ten fits into the image, the result is the largest
    central region of an allowed ratio.

    Torchvision draws both numbers in float32, and this function in float64. For equal draws, sides
    differ by a pixel where rounding decides: in one of 80,000 crops of 375 x 500 pixels. The
    central region has at least one pixel here; torchvision's can be empty in narrow images.

    Args:
      height: of the image in pixels.
      width: of the image in pixels.
      scale: smallest and largest share of the area.
      ratio: smallest and largest ratio of width to height.
      rng: the source of random numbers.
    """
    (least, most), (low, high) = scale, ratio
    for _ in range(_TRIES):
        area = height * width * rng.uniform(least, most)
        drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
        size = round(math.sqrt(area / drawn)), round(math.sqrt(area * drawn))
        if 0 < size[0] <= height and 0 < size[1] <= width:
            return random_box(height, width, size, rng)
    size = height, width
    if width / height < low:
        size = max(1, round(width / low)), width
    elif width / height > high:
        size = height, max(1, round(height * high))
    return Box((height - size[0]) // 2, (width - size[1]) // 2, *size)


def random_box(height: int, width: int, size: Size, rng: np.random.Generator) -> Box:
    """Returns a rectangle of a given size at a random position; all positions are equally likely.

    Args:
      height: of the image in pixels, at least that of `size`.
      width: of the image in pixels, likewise.
      size: of the rectangle.
      rng: the source of random numbers.
    """
    top = rng.integers(height - size[0] + 1)
    return Box(int(top), int(rng.integers(width - size[1] + 1)), *size)


def covering_size(height: int, width: int, size: Size, shorter_side: int) -> Size:
    """Returns the size to which an image is scaled before a crop of a fixed size.

    The shorter side gets `shorter_side` pixels. If the crop would not fit into the image then, as
    with a wide crop, the shorter side gets the fewest pixels with which it fits. The longer side is
    rounded down, as in torchvision and timm.

    Args:
      height: of the image in pixels.
      width: of the image in pixels.
      size: of the crop.
      shorter_side: in pixels.
    """
    shorter = min(height, width)
    needed = (-(-crop * shorter // side) for crop, side in zip(size, (height, width), strict=True))
    shorter_side = max(shorter_side, *needed)
    return shorter_side * height // shorter, shorter_side * width // shorter


def scale_to_cover(
    image: np.ndarray, size: Size, shorter_side: int, interpolation: str
) -> np.ndarray:
    """Scales an image as `covering_size` says.

    Args:
      image: `[h, w, C]`, uint8 or float32. Only the middle of an image longer than 64 to 1 is used.
      size: of the crop that follows.
      shorter_side: in pixels.
      interpolation: 'bilinear' or 'bicubic'; antialiased.

    Returns:
      `[height, width, C]` of the dtype of `image`.
    """
    height, width = image.shape[:2]
    # Longer images lose their ends. A line of pixels would take gigabytes otherwise.
    limit = limits.MAX_IMAGE_RATIO * min(height, width)
    image = images.crop_centre(image, (min(height, limit), min(width, limit)))
    scaled = covering_size(*_size(image), size, shorter_side)
    return images.stretch(image, scaled, interpolation)


def centre(image: np.ndarray, size: Size, shorter_side: int, interpolation: str) -> np.ndarray:
    """Scales the shorter side of an image and crops its centre.

    Arguments and result are those of `scale_to_cover`, and the result has the shape `[*size, C]`.
    """
    return images.crop_centre(scale_to_cover(image, size, shorter_side, interpolation), size)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Crop of evaluation 'fit' and of training 'pad': the whole image, by `images.to_input`."""

    native_size: Size | None
    input_shape: tuple[int, int, int]
    resize: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Returns `[H, W, C]` of an image `[h, w, c]`; uses no random numbers."""
        return images.to_input(image, self.native_size, self.input_shape, self.resize)


@dataclasses.dataclass(frozen=True)
class Centre:
    """Crop 'centre' of evaluation and of training: see `centre`."""

    input_shape: tuple[int, int, int]
    shorter_side: int
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Returns `[H, W, C]` of an image `[h, w, c]`; uses no random numbers."""
        height, width, channels = self.input_shape
        image = images.convert(image, channels)
        return centre(image, (height, width), self.shorter_side, self.interpolation)


@dataclasses.dataclass(frozen=True)
class RandomResized:
    """Training crop 'random_resized': a region of random size and ratio, scaled to the input.

    Attributes:
      size: of the input.
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest ratio of width to height.
      interpolation: 'bilinear' or 'bicubic'; antialiased.
    """

    size: Size
    scale: tuple[float, ...]
    ratio: tuple[float, ...]
    interpolation: str

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Returns the region of an image that is scaled to the input."""
        return random_resized_box(height, width, self.scale, self.ratio, rng)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns `[*size, C]` of an image `[h, w, C]`."""
        region = self.box(*_size(image), rng).cut(image)
        return images.stretch(region, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class Random:
    """Training crop 'random': scales the shorter side and crops the input at a random position.

    Krizhevsky et al. 2012 (doi:10.1145/3065386), section 4.1: 256 pixels, then 224.

    Attributes:
      size: of the input.
      shorter_side: in pixels, before the crop.
      interpolation: 'bilinear' or 'bicubic'; antialiased.
    """

    size: Size
    shorter_side: int
    interpolation: str

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Returns the region of an unscaled image that the crop shows, rounded to pixels."""
        scaled = covering_size(height, width, self.size, self.shorter_side)
        found = random_box(*scaled, self.size, rng)
        top, bottom = (
            round(row * height / scaled[0]) for row in (found.top, found.top + found.height)
        )
        left, right = (
            round(column * width / scaled[1]) for column in (found.left, found.left + found.width)
        )
        # A region of less than a pixel is rounded up to one.
        top, left = min(top, height - 1), min(left, width - 1)
        return Box(top, left, max(bottom - top, 1), max(right - left, 1))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns `[*size, C]` of an image `[h, w, C]`."""
        scaled = scale_to_cover(image, self.size, self.shorter_side, self.interpolation)
        return random_box(*_size(scaled), self.size, rng).cut(scaled)


@dataclasses.dataclass(frozen=True)
class TrainCrop:
    """Training crop of encoded or decoded images, decoded by Pillow."""

    crop: Fit | Centre | RandomResized | Random

    def __call__(
        self, image: bytes | np.ndarray, channels: int, place: str, rng: np.random.Generator
    ) -> np.ndarray:
        """Decodes and crops an image.

        Args:
          image: the content of an image file, or an array `[h, w, C]`, uint8 or float32.
          channels: the wanted number; see `images.convert`.
          place: the name of the example, for error messages.
          rng: the source of random numbers.

        Returns:
          `[H, W, channels]`, uint8 for files, else of the dtype of `image`.

        Raises:
          UnreadableImageError: the content is not a readable image.
        """
        return self.crop(images.to_array(image, channels, place), rng)


@dataclasses.dataclass(frozen=True)
class FastTrainCrop:
    """Random training crop of encoded or decoded images, decoded by OpenCV where it can."""

    crop: RandomResized | Random

    def __call__(
        self, image: bytes | np.ndarray, channels: int, place: str, rng: np.random.Generator
    ) -> np.ndarray:
        """Decodes and crops an image; see `TrainCrop`."""
        if isinstance(image, bytes):

            def box(height: int, width: int) -> Box:
                return self.crop.box(height, width, rng)

            found = opencv.read_crop(image, box, self.crop.size, self.crop.interpolation)
            if found is not None:
                return images.convert(found, channels)
        return TrainCrop(self.crop)(image, channels, place, rng)


def train_crop(data: Data) -> TrainCrop | FastTrainCrop:
    """Returns the training crop of a plan: `(image, channels, place, rng) -> [H, W, C]`."""
    size = data.input_shape[:2]
    if data.train_crop == "pad":
        return TrainCrop(whole(data, None))
    if data.train_crop == "centre":
        return TrainCrop(Centre(data.input_shape, _shorter_side(data, size), data.resize))
    crop: RandomResized | Random
    if data.train_crop == "random":
        crop = Random(size, _shorter_side(data, size), data.resize)
    else:
        crop = RandomResized(size, data.crop_scale, data.crop_ratio, data.resize)
    return FastTrainCrop(crop) if data.decoder == "opencv" else TrainCrop(crop)


def whole(data: Data, native_size: Size | None) -> Fit:
    """Returns the training crop 'pad' of a plan, a function of an image `[h, w, C]` to `[H, W, C]`.

    Args:
      data: the keys of the data set.
      native_size: as for `eval_crop`.
    """
    return Fit(native_size, data.input_shape, data.resize)


def eval_crop(data: Data, native_size: Size | None) -> Fit | Centre:
    """Returns the evaluation crop of a plan, a function of an image `[h, w, C]` to `[H, W, C]`.

    The crop keeps the dtype of the image.

    Args:
      data: the keys of the data set.
      native_size: height and width of the stored images of the data set; None if they differ. The
        crop 'centre' does not depend on it.
    """
    if data.eval_crop == "fit":
        return Fit(native_size, data.eval_shape, data.resize)
    return Centre(data.eval_shape, _shorter_side(data, data.eval_shape[:2]), data.resize)


def of_evaluation(data: Data, description: Description) -> Data:
    """Returns the section `data` with the input size of evaluation for training, too."""
    height, width, channels = description.eval_shape
    return dataclasses.replace(
        data, image_size=height, image_width=width, eval_image_size=0, channels=channels
    )


def check(data: Data) -> None:
    """Checks the keys of the crops; reads no data.

    Raises:
      UserError: a value is not allowed, two values exclude each other, or OpenCV is not installed.
    """
    if data.resize == "pad" and data.needs_original:
        train = data.train_crop != "pad"
        named = f"train_crop {data.train_crop!r}" if train else f"eval_crop {data.eval_crop!r}"
        raise errors.UserError(
            f"data.{named} scales images, and data.resize 'pad' does not; set data.resize to "
            f"{' or '.join(images.INTERPOLATIONS)}"
        )
    _check_range("crop_scale", data.crop_scale, 1)
    _check_range("crop_ratio", data.crop_ratio, math.inf)
    for shape in (data.input_shape, data.eval_shape):
        if math.prod(shape) > limits.MAX_INPUT_VALUES:
            raise errors.UserError(
                "data.image_size and data.eval_image_size must give an input of at most "
                f"{limits.MAX_INPUT_VALUES:,} values, got {'x'.join(map(str, shape))}"
            )
    for size in _scaled_sizes(data):
        least = min(size)  # 0 as long as the size is automatic
        if 0 < data.shorter_side < least:
            raise errors.UserError(
                f"data.shorter_side must be at least {least} pixels, the shorter side of the "
                f"input, or 0 for {round(least / CROP_SHARE)}; got {data.shorter_side}"
            )
    if data.decoder == "opencv":
        if data.train_crop not in ("random", "random_resized"):
            raise errors.UserError(
                "data.decoder 'opencv' is for the training crops random and random_resized, and "
                f"data.train_crop is {data.train_crop!r}; set data.decoder to 'pillow'"
            )
        opencv.check()


def _check_range(key: str, value: tuple[float, ...], most: float) -> None:
    if len(value) == 2 and 0 < value[0] <= value[1] <= most and math.isfinite(value[1]):
        return
    allowed = "0 < smallest <= largest" + ("" if math.isinf(most) else f" <= {most}")
    raise errors.UserError(f"data.{key} must be two numbers with {allowed}, got {value}")


def _size(image: np.ndarray) -> Size:
    return image.shape[0], image.shape[1]


def _scaled_sizes(data: Data) -> set[Size]:
    """Returns the sizes of the crops that `data.shorter_side` must be large enough for."""
    sizes = set()
    if data.eval_size is None or data.train_crop in ("random", "centre"):
        sizes.add(data.input_shape[:2])
    if data.eval_crop == "centre":
        sizes.add(data.eval_shape[:2])
    return sizes


def _shorter_side(data: Data, size: Size) -> int:
    """Returns the shorter side in pixels to which images are scaled before a crop of `size`."""
    return data.shorter_side or round(min(size) / CROP_SHARE)
