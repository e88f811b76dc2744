"""Weight files released by torchvision and others, identified by file name.

Each name ends in the first digits of the file's sha256. The resize and crop sizes are those that
torchvision documents for each file.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from cnn_jax import errors
from cnn_jax.pretrained.formats import regular


class Released(NamedTuple):
    """Released weight file.

    Attributes:
      network: our name of its network.
      preprocessing: fields of `Preprocessing` that differ from torchvision's usual one.
    """

    network: str
    preprocessing: Mapping[str, Any] = MappingProxyType({})


def _resize(
    resize_size: int, image_size: int = 224, interpolation: str = "bilinear"
) -> Mapping[str, Any]:
    """Returns fields of `Preprocessing`: the shorter side's length, the crop's, the filter."""
    return MappingProxyType(
        {
            "resize_size": resize_size,
            "image_size": image_size,
            "interpolation": interpolation,
        }
    )


FILES: Mapping[str, Released] = MappingProxyType(
    {
        "alexnet-owt-7be5be79": Released("alexnet_owt"),
        "convnext_tiny-983f1562": Released("convnext_tiny", _resize(236)),
        "convnext_small-0c510722": Released("convnext_small", _resize(230)),
        "convnext_base-6075fbad": Released("convnext_base", _resize(232)),
        "densenet121-a639ec97": Released("densenet121"),
        "densenet161-8d451a50": Released("densenet161"),
        "densenet169-b2777c0a": Released("densenet169"),
        "densenet201-c1103571": Released("densenet201"),
        "efficientnet-lite0-57934424": Released("tf_efficientnet_lite0"),
        "efficientnet_b0_rwightman-7f5810bc": Released(
            "efficientnet_b0", _resize(256, 224, "bicubic")
        ),
        "efficientnet_b1_rwightman-bac287d4": Released(
            "efficientnet_b1", _resize(256, 240, "bicubic")
        ),
        "efficientnet_b1-c27df63c": Released("efficientnet_b1", _resize(255, 240)),
        "efficientnet_b2_rwightman-c35c1473": Released(
            "efficientnet_b2", _resize(288, 288, "bicubic")
        ),
        "efficientnet_b3_rwightman-b3899882": Released(
            "efficientnet_b3", _resize(320, 300, "bicubic")
        ),
        "efficientnet_b4_rwightman-23ab8bcd": Released(
            "efficientnet_b4", _resize(384, 380, "bicubic")
        ),
        "efficientnet_b5_lukemelas-1a07897c": Released(
            "efficientnet_b5", _resize(456, 456, "bicubic")
        ),
        "efficientnet_b6_lukemelas-24a108a5": Released(
            "efficientnet_b6", _resize(528, 528, "bicubic")
        ),
        "efficientnet_b7_lukemelas-c5b4e57e": Released(
            "efficientnet_b7", _resize(600, 600, "bicubic")
        ),
        "googlenet-1378be20": Released("googlenet_bn"),
        "inception_v3_google-0cc3c7bd": Released("inception_v3"),
        "mobilenet_v2-b0353104": Released("mobilenetv2_100"),
        "mobilenet_v2-7ebf99e0": Released("mobilenetv2_100", _resize(232)),
        "mobilenet_v3_large-8738ca79": Released("mobilenetv3_large_100"),
        "mobilenet_v3_large-5c1a4163": Released("mobilenetv3_large_100", _resize(232)),
        "mobilenet_v3_small-047dcff4": Released("mobilenetv3_small_100"),
        "resnet18-f37072fd": Released("resnet18"),
        "resnet34-b627a593": Released("resnet34"),
        "resnet50-0676ba61": Released("resnet50"),
        "resnet50-11ad3fa6": Released("resnet50", _resize(232)),
        "resnet101-63fe2227": Released("resnet101"),
        "resnet101-cd907fc2": Released("resnet101", _resize(232)),
        "resnet152-394f9c45": Released("resnet152"),
        "resnet152-f82ba261": Released("resnet152", _resize(232)),
        "resnext50_32x4d-7cdf4587": Released("resnext50_32x4d"),
        "resnext50_32x4d-1a0047aa": Released("resnext50_32x4d", _resize(232)),
        "resnext101_32x8d-8ba56ff5": Released("resnext101_32x8d"),
        "resnext101_32x8d-110c445d": Released("resnext101_32x8d", _resize(232)),
        "shufflenetv2_x0.5-f707e7126e": Released("shufflenet_v2_x0_5"),
        "shufflenetv2_x1-5666bf0f80": Released("shufflenet_v2_x1_0"),
        "shufflenetv2_x1_5-3c479a10": Released("shufflenet_v2_x1_5", _resize(232)),
        "shufflenetv2_x2_0-8be3c8ee": Released("shufflenet_v2_x2_0", _resize(232)),
        "squeezenet1_0-b66bff10": Released("squeezenet1_0"),
        "squeezenet1_1-b8a52dc0": Released("squeezenet1_1"),
        "swin_t-704ceda3": Released("swin_tiny_patch4_window7_224", _resize(232, 224, "bicubic")),
        "swin_s-5e29d889": Released("swin_small_patch4_window7_224", _resize(246, 224, "bicubic")),
        "swin_b-68c6b09e": Released("swin_base_patch4_window7_224", _resize(238, 224, "bicubic")),
        "vgg11-8a719046": Released("vgg11"),
        "vgg11_bn-6002323d": Released("vgg11_bn"),
        "vgg13-19584684": Released("vgg13"),
        "vgg13_bn-abd245e5": Released("vgg13_bn"),
        "vgg16-397923af": Released("vgg16"),
        "vgg16_bn-6c64b313": Released("vgg16_bn"),
        "vgg19-dcbb9e9d": Released("vgg19"),
        "vgg19_bn-c79401a0": Released("vgg19_bn"),
        "vit_b_16-c867db91": Released("vit_base_patch16_224"),
        "vit_b_16_lc_swag-4e70ced5": Released("vit_base_patch16_224", _resize(224, 224, "bicubic")),
        "wide_resnet50_2-95faca4d": Released("wide_resnet50_2"),
        "wide_resnet50_2-9ba9bcbe": Released("wide_resnet50_2", _resize(232)),
        "wide_resnet101_2-32ee1156": Released("wide_resnet101_2"),
        "wide_resnet101_2-d733dc28": Released("wide_resnet101_2", _resize(232)),
    }
)


def first(network: str) -> Released | None:
    """Returns the first file that torchvision released for a network, or None."""
    return next((each for each in FILES.values() if each.network == network), None)


def find(path: Path) -> Released | None:
    """Returns the entry of a released file, or None if the file name is unknown.

    Args:
      path: the file; its name without suffix is looked up in `FILES`.

    Raises:
      ValueError: the file cannot be read, or its sha256 differs from the one in its name.
    """
    released = FILES.get(path.stem)
    if released is None:
        return None
    expected = path.stem.rpartition("-")[2]
    with regular.opened(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise errors.UserError(
            f"{path} is damaged or was changed: its sha256 is {found}, which does not begin with "
            f"{expected}; download it again"
        )
    return released
