"""Published parameters by image size and severity.

Hendrycks and Dietterich published parameters for images of three sizes: CIFAR-10-C (32 x 32), Tiny
ImageNet-C (64 x 64) and ImageNet-C (224 x 224). Parameters in pixels are those of the published
size and are not scaled to the image.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

SIZES = (32, 64, 224)
"""Side in pixels of the images that parameters were published for."""

SEVERITIES = (1, 2, 3, 4, 5)

Parameters = TypeVar("Parameters")
Table = Mapping[int, tuple[Parameters, ...]]
"""The parameters of the five severities, by the sizes of `SIZES`."""


def table(
    cifar: tuple[Parameters, ...],
    tiny: tuple[Parameters, ...],
    imagenet: tuple[Parameters, ...],
) -> Table[Parameters]:
    """Returns the table of a corruption.

    Args:
      cifar: the parameters of the five severities in CIFAR-10-C.
      tiny: those in Tiny ImageNet-C.
      imagenet: those in ImageNet-C.
    """
    return MappingProxyType(dict(zip(SIZES, (cifar, tiny, imagenet), strict=True)))


def size_of(height: int, width: int) -> int:
    """Returns the size in `SIZES` that is nearest to the shorter side, by their ratio.

    >>> [size_of(side, 500) for side in (28, 45, 46, 119, 120, 375)]
    [32, 32, 64, 64, 224, 224]
    """
    side = min(height, width)
    return min(SIZES, key=lambda size: abs(math.log(side / size)))


def choose(parameters: Table[Parameters], shape: tuple[int, ...], severity: int) -> Parameters:
    """Returns the parameters for an image.

    Args:
      parameters: the table of the corruption.
      shape: of the image, `[h, w, C]`.
      severity: from 1 to 5.
    """
    return parameters[size_of(shape[0], shape[1])][severity - 1]
