"""Preprocessing for published weights: the evaluation transforms of timm and torchvision."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cnn_jax import errors, models
from cnn_jax.data import crops, dtypes, imagenet, images, pixels
from cnn_jax.pretrained.families import tables

HALF = (0.5, 0.5, 0.5)  # As mean and as standard deviation, scales pixels from [0, 1] to [-1, 1].
_CROP_MODES = ("center", "squash")
# Interpolation of the networks whose inputs are in [-1, 1]. For GoogLeNet and Inception v3
# torchvision documents ImageNet's mean and standard deviation, but converts inside the network.
_INTERPOLATION_OF_SYMMETRIC = {
    "googlenet_bn": "bilinear",
    "inception_v3": "bilinear",
    **dict.fromkeys((f"tf_efficientnet_lite{number}" for number in range(5)), "bicubic"),
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Conversion of an image to a network's input, and the names of the network's outputs.

    Attributes:
      image_size: height of the input in pixels, and its width if `image_width` is 0.
      resize_size: length in pixels to which the shorter side is resized, before the centre crop.
      class_names: the name of each output.
      mean: per channel, of pixels in [0, 1].
      std: standard deviation per channel, of pixels in [0, 1].
      interpolation: one of `images.INTERPOLATIONS`, with antialiasing.
      squash: whether both sides are resized to `resize_size`, without keeping the aspect ratio.
      image_width: width of the input in pixels; 0 for a square input.
    """

    image_size: int
    resize_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...] = imagenet.MEAN
    std: tuple[float, ...] = imagenet.STD
    interpolation: str = "bilinear"
    squash: bool = False
    image_width: int = 0

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          ValueError: a field has a value that `fit` or `__call__` does not support.
        """
        size = self.input_shape[:2]
        needed = max(size) if self.squash else min(size)
        if not 1 <= needed <= self.resize_size:
            raise errors.UserError(
                f"image_size must be from 1 to resize_size, {self.resize_size}, got {needed}"
            )
        if self.interpolation not in images.INTERPOLATIONS:
            raise errors.unknown("interpolation", self.interpolation, images.INTERPOLATIONS)
        if not 1 <= len(self.mean) == len(self.std) or min(self.std) <= 0:
            raise errors.UserError(
                "mean and std must have one value per channel, and std must be positive; "
                f"got mean {self.mean}, std {self.std}"
            )

    def __call__(self, image: Any) -> np.ndarray:
        """Resizes, crops and normalises an image.

        Args:
          image: an array `[h, w]` or `[h, w, C]`, uint8 or floating point in [0, 1]; a picture of
            Pillow; the path of an image file; or its content. Grey and colour are converted into
            each other, as `images.to_pixels` does.

        Returns:
          `[height, width, C]` float32, where C is the number of channels of the network.

        Raises:
          UserError: the image has another shape, dtype or number of channels, or cannot be read.
        """
        fitted = self.fit(image)
        return pixels.normalise(fitted, self.mean, self.std, dtypes.peak(fitted.dtype))

    def fit(self, image: Any) -> np.ndarray:
        """Resizes and crops an image.

        Args:
          image: as for `__call__`.

        Returns:
          `[height, width, C]`, float32 in [0, 1] for floating-point arrays, else uint8.

        Raises:
          UserError: as for `__call__`.
        """
        height, width, channels = self.input_shape
        size = (height, width)
        given = images.to_pixels(image, channels)
        if self.squash:
            square = (self.resize_size, self.resize_size)
            return images.crop_centre(images.stretch(given, square, self.interpolation), size)
        return crops.centre(given, size, self.resize_size, self.interpolation)

    def undo(self, inputs: np.ndarray | jax.Array) -> np.ndarray:
        """Returns inputs of the network as images, for plots: the inverse of the normalisation.

        Args:
          inputs: `[..., H, W, C]`, such as the result of `__call__`.

        Returns:
          `[..., H, W, C]` uint8. Values out of range are clipped.

        Raises:
          UserError: the inputs have another number of channels.
        """
        return pixels.undo(inputs, self.mean, self.std)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the input."""
        return self.image_size, self.image_width or self.image_size, len(self.mean)


def for_network(
    name: str, num_classes: int, input_shape: tuple[int, int, int] | None = None
) -> Preprocessing:
    """Returns the usual preprocessing of a network's published weights.

    It is the default for weights that come without a description of their preprocessing. A network
    without published weights has no usual one: its images are resized and scaled to [0, 1], without
    a margin that is cropped, and not normalised. The same holds for other than 3 channels.

    Args:
      name: the network.
      num_classes: of the checkpoint.
      input_shape: height, width and channels of the input. By default those of the published
        weights.
    """
    height, width, channels = input_shape or models.input_shape(name)
    names, image_width = class_names(num_classes), 0 if width == height else width
    if name not in tables.published() or channels != len(imagenet.MEAN):
        return Preprocessing(
            image_size=height,
            resize_size=min(height, width),
            class_names=names,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            image_width=image_width,
        )
    symmetric = _INTERPOLATION_OF_SYMMETRIC.get(name)
    return Preprocessing(
        image_size=height,
        resize_size=round(min(height, width) / crops.CROP_SHARE),
        class_names=names,
        mean=imagenet.MEAN if symmetric is None else HALF,
        std=imagenet.STD if symmetric is None else HALF,
        interpolation=symmetric or "bilinear",
        image_width=image_width,
    )


def from_timm(config: Mapping[str, Any], num_classes: int) -> Preprocessing:
    """Returns the preprocessing that timm's config.json describes.

    Args:
      config: the content of config.json.
      num_classes: of the checkpoint.

    Raises:
      ValueError: a value is of the wrong type or not supported.
    """
    settings = config.get("pretrained_cfg", config)
    try:
        channels, height, width = map(int, settings.get("input_size") or (3, 224, 224))
        crop_mode = settings.get("crop_mode") or "center"
        if crop_mode not in _CROP_MODES:
            raise errors.unknown("crop_mode", crop_mode, _CROP_MODES)
        if (channels, height) != (3, width):
            raise errors.UserError(f"input_size must be [3, N, N], got {[channels, height, width]}")
        mean, std = (
            tuple(map(float, settings.get(key) or usual))
            for key, usual in (("mean", imagenet.MEAN), ("std", imagenet.STD))
        )
        if not len(mean) == len(std) == channels:
            raise errors.UserError(
                f"mean and std must have three values, one per channel; got {mean} and {std}"
            )
        return Preprocessing(
            image_size=height,
            resize_size=math.floor(height / (settings.get("crop_pct") or crops.CROP_SHARE)),
            class_names=_label_names({**settings, **config}, num_classes),
            mean=mean,
            std=std,
            interpolation=settings.get("interpolation") or "bicubic",
            squash=crop_mode == "squash",
        )
    except errors.UserError:
        raise
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise errors.UserError(f"pretrained_cfg has an invalid value: {error!r}") from error


def class_names(num_classes: int) -> tuple[str, ...]:
    """Returns ImageNet's class names if `num_classes` is 1000, else '0', '1', ..."""
    if num_classes != 1000:
        return tuple(map(str, range(num_classes)))
    return tuple(imagenet.classes().values())


def _label_names(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """Returns the class names in a timm config, or the default ones if it has none.

    Labels are a list or a mapping from class numbers. Classes without a label get their number.
    """
    labels = config.get("label_names") or config.get("labels")
    if not labels:
        return class_names(num_classes)
    pairs = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    by_number = {int(number): label for number, label in pairs}
    descriptions = config.get("label_descriptions") or {}
    found = (by_number.get(number, str(number)) for number in range(num_classes))
    return tuple(str(descriptions.get(label, label)) for label in found)
