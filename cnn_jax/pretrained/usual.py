"""Table of the preprocessing that timm publishes for the weights of each network."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Timm(NamedTuple):
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
_TIMM: Mapping[str, Timm] = MappingProxyType(
    {
        "convnext_(tiny|small)": Timm(0.95),
        "convnext_base": Timm(),
        "csp.*": Timm(0.887, "bilinear"),
        "efficientnet_b1": Timm(0.9, symmetric=True),
        "efficientnet_b5": Timm(1.0, squash=True),
        "(tf_)?efficientnet_b6": Timm(0.942),
        "(tf_)?efficientnet_b7": Timm(0.949),
        "efficientnet_b[0234]": Timm(),
        "tf_efficientnet_b0": Timm(),
        "tf_efficientnet_b1": Timm(0.882),
        "tf_efficientnet_b2": Timm(0.89),
        "tf_efficientnet_b3": Timm(0.904),
        "tf_efficientnet_b4": Timm(0.922),
        "tf_efficientnet_b5": Timm(0.934),
        "efficientnet_lite0": Timm(),
        "efficientnet_lite1": Timm(0.882),
        "efficientnet_lite2": Timm(0.89),
        "efficientnet_lite3": Timm(0.904),
        "efficientnet_lite4": Timm(0.922),
        "tf_efficientnet_lite0": Timm(symmetric=True),
        "tf_efficientnet_lite1": Timm(0.882, symmetric=True),
        "tf_efficientnet_lite2": Timm(0.89, symmetric=True),
        "tf_efficientnet_lite3": Timm(0.904, "bilinear", symmetric=True),
        "tf_efficientnet_lite4": Timm(0.92, "bilinear", symmetric=True),
        "inception_resnet_v2|xception": Timm(0.8975, symmetric=True),
        "inception_v4": Timm(symmetric=True),
        "legacy_seresnet50|senet154": Timm(0.875, "bilinear"),
        "mobilenetv1_.*": Timm(symmetric=True),
        "mobilenetv2_.*|mobilenetv3_(large|small)_100|mobilenetv3_small_075": Timm(),
        "mobilenetv3_large_075": Timm(0.875, "bilinear"),
        "resnet50d|seresnext50_32x4d": Timm(),
        "resnetv2_(50|101)": Timm(0.95, symmetric=True),
        "resnetv2_152": Timm(symmetric=True),
        "seresnet50": Timm(0.95),
        "swin_.*": Timm(0.9),
        "vit_.*": Timm(0.9, symmetric=True),
    }
)


def of_timm(name: str) -> Timm | None:
    """Returns timm's preprocessing of a network; None for networks that timm does not have."""
    return next((each for key, each in _TIMM.items() if re.fullmatch(key, name)), None)
