"""What published weights want done to a picture, as timm's and torchvision's evaluation does it."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import errors, models
from cnn_jax.data import images, pixels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CROP_SHARE = 0.875
_CROP_MODES = ("center", "squash")
# The networks whose inputs are from -1 to 1, with the interpolation. Torchvision, which gives
# these as ImageNet's mean and deviation, turns that around within GoogLeNet and Inception v3.
_CENTRED = {
    "googlenet_bn": "bilinear",
    "inception_v3": "bilinear",
    **dict.fromkeys((f"tf_efficientnet_lite{number}" for number in range(5)), "bicubic"),
}
_IMAGENET_CLASSES = Path(__file__).parent / "imagenet_classes.txt"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an input, and what the outputs are called.

    Attributes:
      image_size: height and width of the input.
      resize_size: pixels that the shorter side is scaled to, before the centre is cropped.
      class_names: the name of each output.
      mean: per channel, of pixels in [0, 1].
      std: their standard deviation.
      interpolation: one of `images.INTERPOLATIONS`, with antialiasing.
      squash: whether to scale both sides to `resize_size`, whatever the proportions.
    """

    image_size: int
    resize_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        """Refuse what `fit` could not do."""
        if not 1 <= self.image_size <= self.resize_size:
            raise errors.UserError(
                f"image_size must be from 1 to resize_size, {self.resize_size}, "
                f"got {self.image_size}"
            )
        if self.interpolation not in images.INTERPOLATIONS:
            raise errors.unknown("interpolation", self.interpolation, images.INTERPOLATIONS)
        if not len(self.mean) == len(self.std) == 3 or min(self.std) <= 0:
            raise errors.UserError(
                f"mean and std must be of three channels, std positive, got {self.mean}, {self.std}"
            )

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The input `[image_size, image_size, C]` float32 for a picture `[h, w, C]` uint8."""
        return pixels.normalise(self.fit(picture), self.mean, self.std)

    def fit(self, picture: np.ndarray) -> np.ndarray:
        """A picture `[h, w, C]` uint8 as `[image_size, image_size, C]` uint8."""
        if self.squash:
            both = (self.resize_size, self.resize_size)
            scaled = images.stretch(picture, both, self.interpolation)
        else:
            scaled = images.scale_shorter(picture, self.resize_size, self.interpolation)
        return images.crop_centre(scaled, self.image_size)


def for_network(name: str, num_classes: int) -> Preprocessing:
    """What is usual for a network's published weights, where nothing more is known."""
    size = models.input_shape(name)[0]
    centred = _CENTRED.get(name)
    return Preprocessing(
        image_size=size,
        resize_size=round(size / CROP_SHARE),
        class_names=class_names(num_classes),
        mean=IMAGENET_MEAN if centred is None else HALF,
        std=IMAGENET_STD if centred is None else HALF,
        interpolation=centred or "bilinear",
    )


def from_timm(config: Mapping[str, Any], num_classes: int) -> Preprocessing:
    """What timm's config.json says.

    Args:
      config: its content.
      num_classes: of the checkpoint.

    Raises:
      ValueError: something that is not done here, or of another type than it should be.
    """
    card = config.get("pretrained_cfg", config)
    try:
        channels, height, width = map(int, card.get("input_size") or (3, 224, 224))
        crop_mode = card.get("crop_mode") or "center"
        if crop_mode not in _CROP_MODES:
            raise errors.unknown("crop_mode", crop_mode, _CROP_MODES)
        if (channels, height) != (3, width):
            raise errors.UserError(f"input_size must be [3, N, N], got {[channels, height, width]}")
        return Preprocessing(
            image_size=height,
            resize_size=math.floor(height / (card.get("crop_pct") or CROP_SHARE)),
            class_names=_label_names({**card, **config}, num_classes),
            mean=tuple(map(float, card.get("mean") or IMAGENET_MEAN)),
            std=tuple(map(float, card.get("std") or IMAGENET_STD)),
            interpolation=card.get("interpolation") or "bicubic",
            squash=crop_mode == "squash",
        )
    except errors.UserError:
        raise
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise errors.UserError(f"pretrained_cfg cannot be understood: {error!r}") from error


def class_names(num_classes: int) -> tuple[str, ...]:
    """ImageNet's for 1000 classes, else numbers."""
    if num_classes != 1000:
        return tuple(map(str, range(num_classes)))
    return tuple(_IMAGENET_CLASSES.read_text(encoding="utf-8").splitlines())


def _label_names(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """The classes in words, where the config has some: a list, or a mapping from the numbers."""
    labels = config.get("label_names") or config.get("labels")
    if not labels:
        return class_names(num_classes)
    pairs = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    by_number = {int(number): label for number, label in pairs}
    descriptions = config.get("label_descriptions") or {}
    found = (by_number.get(number, str(number)) for number in range(num_classes))
    return tuple(str(descriptions.get(label, label)) for label in found)
