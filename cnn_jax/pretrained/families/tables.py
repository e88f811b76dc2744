"""The rename tables by network: the reference's names first, then others that files go by."""

from collections.abc import Mapping
from types import MappingProxyType

from cnn_jax import errors, models
from cnn_jax.pretrained.families import (
    alexnet,
    convnext,
    cspnet,
    densenet,
    efficientnet,
    googlenet,
    inception,
    inception_v4,
    mobilenet,
    resnet,
    resnetv2,
    senet,
    shufflenet,
    squeezenet,
    swin,
    torchvision,
    vgg,
    vit,
    xception,
)
from cnn_jax.pretrained.families.names import Names

_NAMES: Mapping[str, Names] = MappingProxyType(
    alexnet.NAMES
    | vgg.NAMES
    | squeezenet.NAMES
    | googlenet.NAMES
    | inception.NAMES
    | inception_v4.NAMES
    | resnet.NAMES
    | resnetv2.NAMES
    | senet.NAMES
    | xception.NAMES
    | densenet.NAMES
    | mobilenet.NAMES
    | shufflenet.NAMES
    | cspnet.NAMES
    | efficientnet.NAMES
    | convnext.NAMES
    | vit.NAMES
    | swin.NAMES
)
_OTHERS: tuple[Mapping[str, Names], ...] = (
    efficientnet.LUKEMELAS_NAMES,
    torchvision.NAMES,
    torchvision.OLD_NAMES,
    vgg.TIMM_NAMES,
)


def of(name: str) -> tuple[Names, ...]:
    """The tables of network `name`, the reference's first.

    Raises:
      ValueError: an unknown network, or one without a table.
    """
    models.options(name)  # Raises for an unknown network.
    if name not in _NAMES:
        raise errors.unknown("network with published weights", name, sorted(_NAMES))
    return (_NAMES[name], *(others[name] for others in _OTHERS if name in others))
