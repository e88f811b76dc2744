"""The networks by name: `create("lenet", num_classes=10)`.

Each family lives in a file of its own and lists what it offers in `VARIANTS`, a mapping of name to
a `layers.Variant`; the registry is the union of those tables.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.models import (
    alexnet,
    convnext,
    cspnet,
    cuda_convnet,
    densenet,
    efficientnet,
    fashion_cnn,
    googlenet,
    inception,
    inception_v4,
    layers,
    lenet,
    linear,
    mobilenet,
    nin,
    resnet,
    resnetv2,
    senet,
    shufflenet,
    squeezenet,
    swin,
    vgg,
    vit,
    wide_resnet,
    xception,
)

DTYPES = ("bfloat16", "float32", "float64")

_REGISTRY: Mapping[str, layers.Variant] = MappingProxyType(
    linear.VARIANTS
    | lenet.VARIANTS
    | fashion_cnn.VARIANTS
    | cuda_convnet.VARIANTS
    | alexnet.VARIANTS
    | nin.VARIANTS
    | vgg.VARIANTS
    | squeezenet.VARIANTS
    | googlenet.VARIANTS
    | inception.VARIANTS
    | inception_v4.VARIANTS
    | resnet.VARIANTS
    | resnetv2.VARIANTS
    | wide_resnet.VARIANTS
    | senet.VARIANTS
    | xception.VARIANTS
    | densenet.VARIANTS
    | mobilenet.VARIANTS
    | shufflenet.VARIANTS
    | cspnet.VARIANTS
    | efficientnet.VARIANTS
    | convnext.VARIANTS
    | vit.VARIANTS
    | swin.VARIANTS
)


def names() -> list[str]:
    """The names of all registered networks, sorted."""
    return sorted(_REGISTRY)


def create(
    name: str, *, num_classes: int, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> nn.Module:
    """Build a network; its parameters come from `init`.

    Args:
      name: one of `names()`.
      num_classes: the number of logits.
      dtype: what the network computes in; parameters stay float32, logits at least float32.
      **overrides: fields of the network that differ from the variant's, such as `activation`.

    Returns:
      A Linen module: `variables = model.init(key, images, train=False)` and
      `logits = model.apply(variables, images, train=False)`, images `[B, H, W, C]`.

    Raises:
      ValueError: an unknown name, field or value; the message lists the allowed ones.

    >>> create("lenet", num_classes=10, activation="tanh").activation
    'tanh'
    """
    _check_overrides(name, overrides)
    if num_classes < 1:
        raise errors.UserError(f"num_classes must be at least 1, got {num_classes}")
    return _REGISTRY[name].build(num_classes=num_classes, dtype=_dtype(dtype), **overrides)


def options(name: str) -> dict[str, Any]:
    """The fields of network `name` that `create` can override, with the variant's values.

    Raises:
      ValueError: an unknown name.
    """
    module = _variant(name).build(num_classes=1)
    reserved = {"num_classes", "dtype", "parent", "name"}
    fields = (field.name for field in dataclasses.fields(module) if field.init)
    return {field: getattr(module, field) for field in fields if field not in reserved}


def features(model: nn.Module, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """What each stage of a network computes in evaluation, for transfer, detection or plots.

    Args:
      model: one of ours.
      variables: its parameters and running statistics.
      images: `[B, H, W, C]`.

    Returns:
      Maps `[B, H', W', C']` by the names of the stages.

    >>> model = create("resnet20", num_classes=10)
    >>> images = jnp.zeros((1, 32, 32, 3))
    >>> stages = jax.eval_shape(
    ...     lambda: features(model, model.init(jax.random.key(0), images, train=False), images)
    ... )
    >>> {name: stage.shape for name, stage in stages.items()}["stage3"]
    (1, 8, 8, 64)
    """
    _, found = model.apply(variables, images, train=False, mutable=["features"])
    return dict(found.get("features", {}))


def input_shape(name: str) -> tuple[int, int, int]:
    """Height, width and channels of the images for which network `name` was published.

    Raises:
      ValueError: an unknown name.
    """
    return _variant(name).input_shape


def _variant(name: str) -> layers.Variant:
    if name not in _REGISTRY:
        raise errors.unknown("model", name, names())
    return _REGISTRY[name]


def _dtype(dtype: DTypeLike) -> DTypeLike:
    try:
        known = jnp.dtype(dtype).name in DTYPES
    except TypeError:
        known = False
    if not known:
        raise errors.unknown("model.dtype", dtype, DTYPES)
    return jnp.dtype(dtype)


def _check_overrides(name: str, overrides: Mapping[str, Any]) -> None:
    defaults = options(name)
    for key, value in overrides.items():
        if key not in defaults:
            raise errors.unknown(f"option of model {name!r}:", key, defaults)
        if not _has_type(value, type(defaults[key])):
            expected = type(defaults[key]).__name__
            raise errors.UserError(f"model.{key} must be of type {expected}, got {value!r}")
        if key.endswith("_rate") and not 0 <= value < 1:
            raise errors.UserError(f"model.{key} must be in [0, 1), got {value!r}")
        if key == "activation":
            layers.activation(value)
        if key == "widths" and not all(type(width) is int and width > 0 for width in value):
            raise errors.UserError(f"model.widths must be positive integers, got {value!r}")


def _has_type(value: Any, expected: type) -> bool:
    allowed = (int, float) if expected is float else expected
    return isinstance(value, allowed) and isinstance(value, bool) == (expected is bool)
