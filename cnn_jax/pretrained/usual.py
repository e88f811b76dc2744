"""Usual preprocessing of each network's published weights, for files that do not describe it."""

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from cnn_jax import models
from cnn_jax.data import crops, imagenet
from cnn_jax.pretrained import preprocessing
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.formats import released
from cnn_jax.pretrained.formats.released import Released
from cnn_jax.pretrained.preprocessing import Preprocessing

HALF = (0.5, 0.5, 0.5)  # As mean and as standard deviation, scales pixels from [0, 1] to [-1, 1].
# Networks of torchvision whose inputs are in [-1, 1]. For GoogLeNet and Inception v3 torchvision
# documents ImageNet's mean and standard deviation, but converts inside the network.
_SYMMETRIC_IN_TORCHVISION = ("googlenet_bn", "inception_v3")


class _Timm(NamedTuple):
    """Preprocessing in timm's default_cfgs, for the network's published input size.

    Attributes:
      crop_share: `crop_pct`, the share of the resized image's shorter side.
      interpolation: as in timm.
      symmetric: True for inputs in [-1, 1], False for ImageNet's mean and standard deviation.
      squash: True for `crop_mode='squash'`.
    """

    crop_share: float = 0.875
    interpolation: str = "bicubic"
    symmetric: bool = False
    squash: bool = False


# By pattern for the name. Settings are those of the first tag of timm 1.0.31, for which the
# published input sizes of `models` are, too. tests/pretrained/data/published.json has its values.
_TIMM: Mapping[str, _Timm] = MappingProxyType(
    {
        "convnext_(tiny|small)": _Timm(0.95),
        "convnext_base": _Timm(),
        "csp.*": _Timm(0.887, "bilinear"),
        "efficientnet_b1": _Timm(0.9, symmetric=True),
        "efficientnet_b5": _Timm(1.0, squash=True),
        "(tf_)?efficientnet_b6": _Timm(0.942),
        "(tf_)?efficientnet_b7": _Timm(0.949),
        "efficientnet_b[0234]": _Timm(),
        "tf_efficientnet_b0": _Timm(),
        "tf_efficientnet_b1": _Timm(0.882),
        "tf_efficientnet_b2": _Timm(0.89),
        "tf_efficientnet_b3": _Timm(0.904),
        "tf_efficientnet_b4": _Timm(0.922),
        "tf_efficientnet_b5": _Timm(0.934),
        "efficientnet_lite0": _Timm(),
        "efficientnet_lite1": _Timm(0.882),
        "efficientnet_lite2": _Timm(0.89),
        "efficientnet_lite3": _Timm(0.904),
        "efficientnet_lite4": _Timm(0.922),
        "tf_efficientnet_lite0": _Timm(symmetric=True),
        "tf_efficientnet_lite1": _Timm(0.882, symmetric=True),
        "tf_efficientnet_lite2": _Timm(0.89, symmetric=True),
        "tf_efficientnet_lite3": _Timm(0.904, "bilinear", symmetric=True),
        "tf_efficientnet_lite4": _Timm(0.92, "bilinear", symmetric=True),
        "inception_resnet_v2|xception": _Timm(0.8975, symmetric=True),
        "inception_v4": _Timm(symmetric=True),
        "legacy_seresnet50|senet154": _Timm(0.875, "bilinear"),
        "mobilenetv1_.*": _Timm(symmetric=True),
        "mobilenetv2_.*|mobilenetv3_(large|small)_100|mobilenetv3_small_075": _Timm(),
        "mobilenetv3_large_075": _Timm(0.875, "bilinear"),
        "resnet50d|seresnext50_32x4d": _Timm(),
        "resnetv2_(50|101)": _Timm(0.95, symmetric=True),
        "resnetv2_152": _Timm(symmetric=True),
        "seresnet50": _Timm(0.95),
        "swin_.*": _Timm(0.9),
        "vit_.*": _Timm(0.9, symmetric=True),
    }
)


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
    names = preprocessing.class_names(num_classes)
    if name not in tables.published():
        return Preprocessing(
            image_size=height,
            resize_size=min(height, width),
            class_names=names,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            image_width=0 if width == height else width,
        )
    found = next((each for key, each in _TIMM.items() if re.fullmatch(key, name)), None)
    if found and not torchvision:
        mean, std = (HALF, HALF) if found.symmetric else (imagenet.MEAN, imagenet.STD)
        colour = Preprocessing(
            image_size=height,
            resize_size=preprocessing.crop_resize(shape, found.crop_share, squash=found.squash),
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
    usual = Preprocessing(
        image_size=size,
        resize_size=round(size / crops.CROP_SHARE),
        class_names=names,
        mean=HALF if symmetric else imagenet.MEAN,
        std=HALF if symmetric else imagenet.STD,
    )
    return dataclasses.replace(usual, **(release.preprocessing if release else {}))
