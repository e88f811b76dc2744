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


_FLAX = Names(flax=True)


def for_network(name: str) -> tuple[Names, ...]:
    """Returns the rename tables of network `name`, the reference's first.

    Raises:
      ValueError: the network is unknown or has no rename table.
    """
    models.options(name)  # Raises for an unknown network.
    if name not in _NAMES:
        raise errors.unknown("network with published weights", name, published())
    return (_NAMES[name], *(others[name] for others in _ALTERNATIVES if name in others))


def of_torchvision(name: str, table: Names) -> bool:
    """Returns True for a table of network `name` with names that only torchvision has."""
    return any(others.get(name) is table for others in (torchvision.NAMES, torchvision.OLD_NAMES))


def published() -> list[str]:
    """Returns the networks that have a rename table, sorted."""
    return sorted(_NAMES)


def for_file(name: str) -> tuple[Names, ...]:
    """Returns the tables of names that a weights file of network `name` can have.

    They are the network's rename tables, if it has any, and Flax's names.
    """
    return (*(for_network(name) if name in _NAMES else ()), _FLAX)


def for_timm(name: str) -> Names:
    """Returns the table of timm's names where timm has network `name`, else `for_file`'s first."""
    return vgg.TIMM_NAMES.get(name) or for_file(name)[0]
