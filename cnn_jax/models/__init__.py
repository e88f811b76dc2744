"""Registry of the networks: `create("lenet", num_classes=10)`.

Each family has its own file with a table `VARIANTS`, which maps names to `layers.Variant`. The
registry is the union of these tables.
"""

import dataclasses
import difflib
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
    """Returns the names of all registered networks, sorted."""
    return sorted(_REGISTRY)


def create(
    name: str, *, num_classes: int, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> nn.Module:
    """Builds a network. The module's `init` creates the parameters.

    Args:
      name: a name from `names()`.
      num_classes: the number of logits.
      dtype: dtype of the computation, one of `DTYPES`. Parameters are float32 for every dtype;
        logits are at least float32.
      **overrides: network fields to set in place of the variant's values, such as `activation`.

    Returns:
      A Linen module. `variables = model.init(prng, images, train=False)` creates its variables;
      `logits = model.apply(variables, images, train=False)` applies it to images `[B, H, W, C]`.

    Raises:
      ValueError: the name, a field or a value is not allowed. The message says what is allowed.

    >>> create("lenet", num_classes=10, activation="tanh").activation
    'tanh'
    """
    _check_overrides(name, overrides)
    if num_classes < 1:
        raise errors.UserError(f"num_classes must be at least 1, got {num_classes}")
    return _REGISTRY[name].build(num_classes=num_classes, dtype=_dtype(dtype), **overrides)


def options(name: str) -> dict[str, Any]:
    """Returns the fields of network `name` that `create` can override, with the variant's values.

    Raises:
      ValueError: the name is unknown.
    """
    module = _variant(name).build(num_classes=1)
    reserved = {"num_classes", "dtype", "parent", "name"}
    fields = (field.name for field in dataclasses.fields(module) if field.init)
    return {field: getattr(module, field) for field in fields if field not in reserved}


def features(model: nn.Module, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the endpoints of a network: the output of each stage, in evaluation mode.

    Endpoints serve transfer learning, detection and plots.

    Args:
      model: a network from `create`.
      variables: the parameters and running statistics of `model`.
      images: `[B, H, W, C]`.

    Returns:
      Feature maps `[B, H', W', C']`, keyed by the name of the stage.

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
    """Returns height, width and channels of the images that network `name` was published for.

    Raises:
      ValueError: the name is unknown.
    """
    return _variant(name).input_shape


def _variant(name: str) -> layers.Variant:
    if name not in _REGISTRY:
        raise _unknown_model(name)
    return _REGISTRY[name]


def _unknown_model(name: str) -> errors.UserError:
    """Returns the error for an unknown network, with three suggestions.

    Names that start with `name` come first, such as 'vit_tiny_patch16_224' for 'vit'. Within each
    group, names are sorted by similarity.
    """
    text = str(name).lower()
    nearest = difflib.get_close_matches(text, names(), n=len(_REGISTRY), cutoff=0)
    first, second, third, *_ = sorted(nearest, key=lambda known: not known.startswith(text))
    return errors.UserError(
        f"unknown model {name!r}; did you mean {first!r}, {second!r} or {third!r}? "
        "To list all networks, run: python -m cnn_jax.summary --list"
    )


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
            raise errors.UserError(
                f"model.widths must contain positive integers only, got {value!r}"
            )


def _has_type(value: Any, expected: type) -> bool:
    allowed = (int, float) if expected is float else expected
    return isinstance(value, allowed) and isinstance(value, bool) == (expected is bool)
