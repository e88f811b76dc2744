"""Rename tables by network: the reference's names first, then the alternatives."""

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
_ALTERNATIVES: tuple[Mapping[str, Names], ...] = (
    efficientnet.LUKEMELAS_NAMES,
    torchvision.NAMES,
    torchvision.OLD_NAMES,
    vgg.TIMM_NAMES,
)


def for_network(name: str) -> tuple[Names, ...]:
    """Returns the rename tables of network `name`, the reference's first.

    Raises:
      ValueError: the network is unknown or has no rename table.
    """
    models.options(name)  # Raises for an unknown network.
    if name not in _NAMES:
        raise errors.unknown("network with published weights", name, sorted(_NAMES))
    return (_NAMES[name], *(others[name] for others in _ALTERNATIVES if name in others))
