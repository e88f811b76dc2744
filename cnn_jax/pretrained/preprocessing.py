"""Preprocessing for weights: the evaluation transforms of timm and torchvision."""

import collections
import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cnn_jax import errors, limits, models
from cnn_jax.data import crops, dtypes, imagenet, images, pixels
from cnn_jax.pretrained import usual
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.formats import released
from cnn_jax.pretrained.formats.released import Released
from cnn_jax.pretrained.network import check_input_size

HALF = (0.5, 0.5, 0.5)  # As mean and as standard deviation, scales pixels from [0, 1] to [-1, 1].

# Networks of torchvision whose inputs are in [-1, 1]. For GoogLeNet and Inception v3 torchvision
# documents ImageNet's mean and standard deviation, but converts inside the network.
_SYMMETRIC_IN_TORCHVISION = ("googlenet_bn", "inception_v3")
_CROP_MODES = ("center", "squash")
# Errors of values of another type or size in a config.
_INVALID = (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError)
_LARGEST = 1e6  # of mean and deviation; pixels are in [0, 1]


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
          UserError: a field has a value that `fit` or `__call__` does not support, or a size is
            larger than a limit of `limits`.
        """
        _check_sizes(self.image_size, self.image_width, self.resize_size)
        _check_pixels(self.mean, self.std)
        check_input_size(*self.input_shape)
        size = self.input_shape[:2]
        needed = max(size) if self.squash else min(size)
        if not 1 <= needed <= self.resize_size:
            raise errors.UserError(
                f"image_size must be from 1 to resize_size, {self.resize_size}, got {needed}"
            )
        if self.interpolation not in images.INTERPOLATIONS:
            raise errors.unknown("interpolation", self.interpolation, images.INTERPOLATIONS)
        if not all(isinstance(name, str) for name in self.class_names):
            raise errors.UserError("class_names must be strings, one for each class")

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

    def adapted(self, input_shape: tuple[int, int, int]) -> "Preprocessing":
        """Returns the preprocessing for images of another size or number of channels.

        The crop keeps its share of the resized image. One channel gets the average of means and
        deviations; more channels get them in turn.

        Args:
          input_shape: height, width and channels of the input.
        """
        if input_shape == self.input_shape:
            return self
        height, width, channels = input_shape
        side = max if self.squash else min
        resize_size, given = self.resize_size, self.input_shape[:2]
        if given != (height, width):
            resized = round(side(height, width) * resize_size / side(given))
            resize_size = max(resized, side(height, width))
        return dataclasses.replace(
            self,
            image_size=height,
            resize_size=resize_size,
            mean=_recoloured(self.mean, channels),
            std=_recoloured(self.std, channels),
            image_width=0 if height == width else width,
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the input."""
        return self.image_size, self.image_width or self.image_size, len(self.mean)


def _check_sizes(image_size: Any, image_width: Any, resize_size: Any) -> None:
    """Checks the types of sizes in pixels, and the limit of `resize_size`."""
    sizes = {"image_size": image_size, "image_width": image_width, "resize_size": resize_size}
    for key, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise errors.UserError(f"{key} must be a number of pixels, got {value!r:.99}")
    if resize_size > limits.MAX_RESIZE_SIDE:
        raise errors.UserError(
            f"resize_size (in configs input_size / crop_pct) is {resize_size!r:.30} pixels, more "
            f"than the limit MAX_RESIZE_SIDE of cnn_jax/limits.py, {limits.MAX_RESIZE_SIDE:,}; "
            "choose a smaller size"
        )


def _check_pixels(mean: Any, std: Any) -> None:
    """Checks that mean and standard deviation can normalise pixels in float32."""
    given = f"got mean {mean!r:.99}, std {std!r:.99}"
    if not 1 <= len(mean) == len(std):
        raise errors.UserError(f"mean and std must have one value per channel; {given}")
    least = np.finfo(np.float32).tiny
    finite = all(_is_number(value) and abs(value) < _LARGEST for value in (*mean, *std))
    if not finite or min(std) < least:
        raise errors.UserError(
            f"mean and std must be finite numbers of pixels in [0, 1], and std must be positive; "
            f"{given}"
        )


def _is_number(value: Any) -> bool:
    """Returns True for an integer or a float, also of NumPy; booleans are no numbers here."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """Returns a number of a config.

    Raises:
      TypeError: the value is not a number.
    """
    if not _is_number(value):
        raise TypeError(f"{value!r:.99} is no number")
    return float(value)


def _crop_resize(shape: tuple[int, ...], share: float, *, squash: bool) -> int:
    """Returns the length of the resized sides in timm, in pixels.

    Args:
      shape: height and width of the input, then its channels.
      share: the share of the resized image's shorter side that the crop keeps.
      squash: whether both sides are resized to this length.
    """
    side = max(shape[:2]) if squash else min(shape[:2])
    return math.floor(side / share)


def _recoloured(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Returns means or deviations for another number of channels.

    One channel gets the mean of the values, because a grey pixel stands for three equal colours.
    With more channels, each gets the value of the colour whose kernel `adapt.recoloured` repeats.
    """
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[channel % len(values)] for channel in range(channels))


def for_network(
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int] | None = None,
    *,
    release: Released | None = None,
    torchvision: bool = False,
) -> Preprocessing:
    """Returns the usual preprocessing of a network's published weights.

    It is the default for weights that come without a description of their preprocessing: timm's
    for networks of timm, torchvision's first release for others. `Preprocessing.adapted` gives
    means and deviations for other numbers of channels than 3. Images of a network without published
    weights are resized without a crop and scaled to [0, 1], but not normalised.

    Args:
      name: the network.
      num_classes: of the checkpoint.
      input_shape: height, width and channels of the input. By default those of the weights.
      release: the released file that the weights come from, if any.
      torchvision: True for weights with torchvision's names, of a network that timm has too.
    """
    height, width, channels = shape = input_shape or models.input_shape(name)
    names = class_names(num_classes)
    if name not in tables.published():
        return Preprocessing(
            image_size=height,
            resize_size=min(height, width),
            class_names=names,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            image_width=0 if width == height else width,
        )
    found = usual.of_timm(name)
    if found and not torchvision:
        mean, std = (HALF, HALF) if found.symmetric else (imagenet.MEAN, imagenet.STD)
        colour = Preprocessing(
            image_size=height,
            resize_size=_crop_resize(shape, found.crop_share, squash=found.squash),
            class_names=names,
            mean=mean,
            std=std,
            interpolation=found.interpolation,
            squash=found.squash,
            image_width=0 if width == height else width,
        )
        return colour.adapted(shape)
    theirs = _torchvisions(name, names, release or released.first(name))
    return theirs.adapted(input_shape) if input_shape else theirs


def _torchvisions(name: str, names: tuple[str, ...], release: Released | None) -> Preprocessing:
    """Returns the preprocessing of a file that torchvision released, for its image size."""
    size = models.input_shape(name)[0]
    symmetric = name in _SYMMETRIC_IN_TORCHVISION
    plain = Preprocessing(
        image_size=size,
        resize_size=round(size / crops.CROP_SHARE),
        class_names=names,
        mean=HALF if symmetric else imagenet.MEAN,
        std=HALF if symmetric else imagenet.STD,
    )
    return dataclasses.replace(plain, **(release.preprocessing if release else {}))


def from_timm(
    config: Mapping[str, Any],
    num_classes: int,
    input_shape: tuple[int, int, int] | None = None,
) -> Preprocessing:
    """Returns the preprocessing that timm's config.json describes.

    Args:
      config: the content of config.json.
      num_classes: of the checkpoint.
      input_shape: height, width and channels of the network's images; by default the config's. The
        share of the crop is the config's.

    Raises:
      UserError: a value is of the wrong type or not supported, or larger than a limit of
        `limits`.
    """
    settings = config.get("pretrained_cfg", config)
    try:
        channels, height, width = map(operator.index, settings.get("input_size") or (3, 224, 224))
        crop_mode = settings.get("crop_mode") or "center"
        if crop_mode not in _CROP_MODES:
            raise errors.unknown("crop_mode", crop_mode, _CROP_MODES)
        if height != width or channels < 1:
            raise errors.UserError(f"input_size must be [C, N, N], got {[channels, height, width]}")
        share = settings.get("crop_pct")
        mean, std = (
            tuple(map(_number, default if settings.get(key) is None else settings[key]))
            for key, default in (("mean", imagenet.MEAN), ("std", imagenet.STD))
        )
        if len(mean) != len(std) or len(mean) not in (1, len(imagenet.MEAN), channels):
            raise errors.UserError(
                f"mean and std must have one value per channel, or three; got {mean} and {std}"
            )
        shape = input_shape or (height, width, channels)
        _check_sizes(*shape[:2], 0)
        squash = crop_mode == "squash"
        share = _number(crops.CROP_SHARE if share is None else share)
        return Preprocessing(
            image_size=shape[0],
            resize_size=_crop_resize(shape, share, squash=squash),
            class_names=_label_names({**settings, **config}, num_classes),
            mean=_recoloured(mean, shape[2]),
            std=_recoloured(std, shape[2]),
            interpolation=settings.get("interpolation") or "bicubic",
            squash=squash,
            image_width=0 if shape[0] == shape[1] else shape[1],
        )
    except errors.UserError:
        raise
    except _INVALID as error:
        raise errors.UserError(f"pretrained_cfg has an invalid value: {error!r:.99}") from error


def class_names(num_classes: int) -> tuple[str, ...]:
    """Returns ImageNet's class names if `num_classes` is 1000, else '0', '1', ..."""
    if num_classes != 1000:
        return tuple(map(str, range(num_classes)))
    return tuple(imagenet.classes().values())


def _label_names(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """Returns the class names in a timm config, or the default ones if it has none.

    Labels are a list or a mapping from class numbers. Classes without a label get their number.
    If several classes have one name, such as 'crane', the number is appended to each.
    """
    labels = config.get("label_names") or config.get("labels")
    if not labels:
        return class_names(num_classes)
    pairs = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    by_number = {int(number): label for number, label in pairs}
    descriptions = config.get("label_descriptions") or {}
    found = (by_number.get(number, str(number)) for number in range(num_classes))
    names = [_text(descriptions.get(label, label)) for label in found]
    counts = collections.Counter(names)
    return tuple(
        f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names)
    )


def _text(label: Any) -> str:
    """Returns a label of a config as text.

    Raises:
      UserError: the label is neither a string nor a number.
    """
    if not isinstance(label, (str, int, float)):
        raise errors.UserError(f"label_names must be text, got {label!r:.99}")
    return str(label)
