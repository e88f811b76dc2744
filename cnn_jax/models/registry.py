"""Registry of the networks: `create("lenet", num_classes=10)`.

Each family has its own file with a table `VARIANTS`, which maps names to `layers.Variant`. The
registry is the union of these tables, and of what `register` adds. Names of the form
'module:attribute' import a network of the user.
"""

import difflib
import operator
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

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
    fields,
    googlenet,
    inception,
    inception_v4,
    layers,
    lenet,
    linear,
    mobilenet,
    nin,
    own,
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
from cnn_jax.runtime import imports

DTYPES = ("bfloat16", "float32", "float64")

_BUILT_IN: Mapping[str, layers.Variant] = MappingProxyType(
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
_REGISTERED: dict[str, layers.Variant] = {}  # by `register`
_lock = threading.Lock()
_VALID_NAME = re.compile(r"[A-Za-z0-9_-]+")
_CREATED_AS = "_created_as"  # attribute of a created module: the name given to `create`


def names() -> list[str]:
    """Returns the names of all registered networks, sorted."""
    return sorted({**_BUILT_IN, **_REGISTERED})


def register(name: str, build: Callable[..., nn.Module], input_shape: Sequence[int]) -> None:
    """Adds a network of the user to the registry of this process, for `create` and configs.

    Other processes, such as the commands, do not know the name. They find a network in a file by
    the name 'module:attribute', which needs no registration. A notebook cell that defines and
    registers a network may run again: the new definition replaces the old one.

    Args:
      name: a new name of letters, digits, '_' and '-'.
      build: a module class, or a function that returns a module; `check` has the contract.
      input_shape: height, width and channels of the images that the network is meant for.

    Raises:
      UserError: the name is taken or not valid, `build` does not take `num_classes` and `dtype`,
        or `input_shape` is not three positive integers.
    """
    if not isinstance(name, str) or not _VALID_NAME.fullmatch(name):
        raise errors.UserError(
            f"{name!r} is not a valid name of a network; use letters, digits, '_' and '-'"
        )
    own.check_build(name, build)
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise errors.UserError(
            f"input_shape of {name!r} must be height, width and channels, such as (224, 224, 3), "
            f"got {input_shape!r}"
        )
    with _lock:
        known = _REGISTERED.get(name)
        if name in _BUILT_IN or (known is not None and not _is_redefinition(known.build, build)):
            raise errors.UserError(f"the name {name!r} is registered already; choose a new name")
        _REGISTERED[name] = layers.Variant(build, shape)


def registered(name: str) -> Callable[..., nn.Module] | None:
    """Returns the last `build` that `register` received for a name; None for other names."""
    with _lock:
        known = _REGISTERED.get(name)
    return None if known is None else known.build


def _is_redefinition(old: Callable[..., nn.Module], new: Callable[..., nn.Module]) -> bool:
    """Returns True if both come from the same place: the same definition, run again."""
    places = [
        [getattr(one, key, "") for key in ("__module__", "__qualname__")] for one in (old, new)
    ]
    return places[0] == places[1] and "" not in places[0]


def create(
    name: str, *, num_classes: int, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> nn.Module:
    """Builds a network. The module's `init` creates the parameters.

    Args:
      name: a name from `names()`, or 'module:attribute' for a network of the user; `check` has the
        contract of these.
      num_classes: the number of logits. With 0, the network has no head and returns the pooled
        features `[B, D]`.
      dtype: dtype of the computation, one of `DTYPES`. Parameters are float32 for every dtype;
        logits are at least float32.
      **overrides: network fields to set in place of the variant's values, such as `activation`.
        Lists are accepted for tuples. `remat=True` recomputes the activations of blocks in the
        backward pass instead of storing them; the gradients stay equal.

    Returns:
      A Linen module. `variables = model.init(prng, images, train=False)` creates its variables;
      `logits = model.apply(variables, images, train=False)` applies it to images `[B, H, W, C]`.
      Flax's transformations take `train` by position as a static argument:
      `nn.jit(type(model), static_argnums=(2,))`.

    Raises:
      ValueError: the name, a field or a value is not allowed. The message says what is allowed.

    >>> create("lenet", num_classes=10, activation="tanh").activation
    'tanh'
    """
    build = _build(name)
    check_options(name, overrides)
    default = fields.defaults(build)
    values = {
        key: fields.like_default(key, value, default.get(key)) for key, value in overrides.items()
    }
    arguments = {"num_classes": _count(num_classes), "dtype": _dtype(dtype), **values}
    if name in _BUILT_IN:
        for key, value in values.items():
            fields.check_value(key, value, default[key])
        model = build(**arguments)
    else:
        fields.check_given(name, build, values)
        model = own.construct(name, build, arguments)
    # No field of the dataclass, so that equality and the scopes of submodules do not change.
    object.__setattr__(model, _CREATED_AS, name)
    return model


def options(name: str) -> dict[str, Any]:
    """Returns the fields of network `name` that `create` can override, with the variant's values.

    An option that a user's network has without a default has the value `...`.

    Raises:
      ValueError: the name is unknown.
    """
    return fields.defaults(_build(name))


def check_options(name: str, overrides: Mapping[str, Any]) -> None:
    """Checks that network `name` has options of these names; the values are not read.

    Raises:
      ValueError: the name of the network or of an option is unknown.
    """
    fields.check_names(name, _build(name), overrides)


def input_shape(name: str) -> tuple[int, int, int]:
    """Returns height, width and channels of the images that network `name` was published for.

    Raises:
      ValueError: the name is unknown, or is of the form 'module:attribute'. These networks have no
        published input shape.
    """
    if _is_reference(name):
        raise errors.UserError(
            f"model {name!r} has no published input shape; give height, width and channels"
        )
    return _variant(name).input_shape


def name_of(model: nn.Module) -> str:
    """Returns the name of the network that `model` is.

    Modules from `create` know the name that they were created by, also if options were overridden.
    Other modules, such as copies, are known if their fields equal those of a network of this
    package; `num_classes`, `dtype` and `remat` may differ.

    Raises:
      UserError: the name is unknown.

    >>> name_of(create("resnet18", num_classes=10).copy(num_classes=7))
    'resnet18'
    """
    created_as: str | None = vars(model).get(_CREATED_AS)
    if created_as is not None:
        return created_as
    for name, variant in _BUILT_IN.items():
        if type(model) is _class(variant):
            default = fields.defaults(variant.build)
            if all(getattr(model, key) == default[key] for key in default if key != "remat"):
                return name
    raise errors.UserError(
        f"the name of this {type(model).__name__} is not known, because models.create did not "
        "build it; give the name of the network, or its input_shape to a function that takes one"
    )


def _class(variant: layers.Variant) -> type[nn.Module]:
    return type(variant.build(num_classes=1))


def _is_reference(name: str) -> bool:
    return isinstance(name, str) and imports.is_reference(name)


def _build(name: str) -> Callable[..., nn.Module]:
    """Returns the class or function of a network; imports a network of the user."""
    return own.load(name) if _is_reference(name) else _variant(name).build


def _variant(name: str) -> layers.Variant:
    found = _BUILT_IN.get(name) or _REGISTERED.get(name)
    if found is None:
        raise _unknown_model(name)
    return found


def _unknown_model(name: str) -> errors.UserError:
    """Returns the error for an unknown network, with three suggestions.

    Names that start with `name` come first, such as 'vit_tiny_patch16_224' for 'vit'. Within each
    group, names are sorted by similarity.
    """
    text, known = str(name).lower(), names()
    nearest = difflib.get_close_matches(text, known, n=len(known), cutoff=0)
    first, second, third, *_ = sorted(nearest, key=lambda other: not other.startswith(text))
    return errors.UserError(
        f"unknown model {name!r}; did you mean {first!r}, {second!r} or {third!r}? "
        "To list all networks, run: python -m cnn_jax.summary --list. "
        "A network of your own is named 'module:attribute'."
    )


def _count(num_classes: Any) -> int:
    """Returns the number of classes as an int."""
    try:
        count = operator.index(num_classes)
    except TypeError:
        count = -1
    if count < 0 or isinstance(num_classes, bool):
        raise errors.UserError(
            "num_classes must be an integer of at least 1, or 0 for pooled features, got "
            f"{num_classes!r}"
        )
    return count


def _dtype(dtype: DTypeLike) -> DTypeLike:
    try:
        known = jnp.dtype(dtype).name in DTYPES
    except TypeError:
        known = False
    if not known:
        raise errors.unknown("model.dtype", dtype, DTYPES)
    return jnp.dtype(dtype)
