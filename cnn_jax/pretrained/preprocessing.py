"""Preprocessing for published weights: the evaluation transforms of timm and torchvision."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax import errors, models
from cnn_jax.data import crops, imagenet, images, pixels

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
      image_size: height and width of the input in pixels.
      resize_size: length in pixels to which the shorter side is resized, before the centre crop.
      class_names: the name of each output.
      mean: per channel, of pixels in [0, 1].
      std: standard deviation per channel, of pixels in [0, 1].
      interpolation: one of `images.INTERPOLATIONS`, with antialiasing.
      squash: whether both sides are resized to `resize_size`, without keeping the aspect ratio.
    """

    image_size: int
    resize_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...] = imagenet.MEAN
    std: tuple[float, ...] = imagenet.STD
    interpolation: str = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          ValueError: a field has a value that `fit` or `__call__` does not support.
        """
        if not 1 <= self.image_size <= self.resize_size:
            raise errors.UserError(
                f"image_size must be from 1 to resize_size, {self.resize_size}, "
                f"got {self.image_size}"
            )
        if self.interpolation not in images.INTERPOLATIONS:
            raise errors.unknown("interpolation", self.interpolation, images.INTERPOLATIONS)
        if not len(self.mean) == len(self.std) == 3 or min(self.std) <= 0:
            raise errors.UserError(
                "mean and std must have three values, one per channel, and std must be positive; "
                f"got mean {self.mean}, std {self.std}"
            )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Resizes, crops and normalises an image.

        Args:
          image: `[h, w, C]` uint8.

        Returns:
          `[image_size, image_size, C]` float32.
        """
        return pixels.normalise(self.fit(image), self.mean, self.std)

    def fit(self, image: np.ndarray) -> np.ndarray:
        """Resizes and crops an image.

        Args:
          image: `[h, w, C]` uint8.

        Returns:
          `[image_size, image_size, C]` uint8.
        """
        size = (self.image_size, self.image_size)
        if self.squash:
            square = (self.resize_size, self.resize_size)
            return images.crop_centre(images.stretch(image, square, self.interpolation), size)
        return crops.centre(image, size, self.resize_size, self.interpolation)


def for_network(name: str, num_classes: int) -> Preprocessing:
    """Returns the usual preprocessing of a network's published weights.

    It is the default for weights that come without a description of their preprocessing.

    Args:
      name: the network.
      num_classes: of the checkpoint.
    """
    size = models.input_shape(name)[0]
    symmetric = _INTERPOLATION_OF_SYMMETRIC.get(name)
    return Preprocessing(
        image_size=size,
        resize_size=round(size / crops.CROP_SHARE),
        class_names=class_names(num_classes),
        mean=imagenet.MEAN if symmetric is None else HALF,
        std=imagenet.STD if symmetric is None else HALF,
        interpolation=symmetric or "bilinear",
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
        return Preprocessing(
            image_size=height,
            resize_size=math.floor(height / (settings.get("crop_pct") or crops.CROP_SHARE)),
            class_names=_label_names({**settings, **config}, num_classes),
            mean=tuple(map(float, settings.get("mean") or imagenet.MEAN)),
            std=tuple(map(float, settings.get("std") or imagenet.STD)),
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
