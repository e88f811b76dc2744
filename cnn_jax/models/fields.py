"""Options of a network: the arguments of its class or function, read from the signature."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cnn_jax import errors
from cnn_jax.models import layers

# Arguments that are no options: `create` passes the first two, Flax sets the others.
_PASSED = ("num_classes", "dtype")
_RESERVED = (*_PASSED, "parent", "name")


def defaults(build: Callable[..., Any]) -> dict[str, Any]:
    """Returns the options of a network with their defaults, in the order of the signature.

    An option without a default has the value `...`. The result is empty if the signature cannot be
    read.

    >>> def network(num_classes, dtype, depth, width=8): ...
    >>> defaults(network)
    {'depth': Ellipsis, 'width': 8}
    """
    return {
        parameter.name: ... if parameter.default is parameter.empty else parameter.default
        for parameter in _parameters(build) or ()
        if parameter.name not in _RESERVED and parameter.kind not in _VARIABLE
    }


def check_names(network: str, build: Callable[..., Any], names: Mapping[str, Any]) -> None:
    """Checks that a network has options of these names.

    Args:
      network: the name of the network, for messages.
      build: its class or function.
      names: the options, by name.

    Raises:
      UserError: an option is unknown.
    """
    allowed = defaults(build)
    takes_any = _takes_any(build)
    for name in names:
        if name in allowed or (takes_any and name not in _RESERVED):
            continue
        if not allowed:
            raise errors.UserError(f"model {network!r} has no options, got {name!r}; remove it")
        raise errors.unknown(f"option of model {network!r}:", name, allowed)


def check_arguments(network: str, build: Callable[..., Any]) -> None:
    """Checks that a class or function takes `num_classes` and `dtype` by keyword.

    Raises:
      UserError: it does not.
    """
    if _takes_any(build):
        return
    taken = {
        parameter.name
        for parameter in _parameters(build) or ()
        if parameter.kind is not parameter.POSITIONAL_ONLY
    }
    missing = [name for name in _PASSED if name not in taken]
    if missing:
        raise errors.UserError(
            f"model {network!r} takes no argument {' and no argument '.join(map(repr, missing))}; "
            "networks are built with the keywords num_classes and dtype (see models.check)"
        )


def check_given(network: str, build: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Checks that every option without a default is given.

    Raises:
      UserError: one is not.
    """
    for name, default in defaults(build).items():
        if default is ... and name not in values:
            raise errors.UserError(
                f"model {network!r} needs the option {name!r}; set config.model.{name}, or give it "
                "a default"
            )


def like_default(key: str, value: Any, default: Any) -> Any:
    """Returns a value with tuples in place of lists, as a default has them, at every depth.

    Where the default is a NamedTuple, a list or tuple of its length becomes one.

    Raises:
      UserError: the number of entries differs from that of the NamedTuple.

    >>> like_default("widths", [[1, 2], [3]], default=((8,),))
    ((1, 2), (3,))
    """
    if not isinstance(default, tuple) or not isinstance(value, (list, tuple)):
        return value
    names = getattr(default, "_fields", None)
    if names is None:
        inner = default[0] if default else None
        return tuple(like_default(key, entry, inner) for entry in value)
    if len(value) != len(names):
        raise errors.UserError(
            f"model.{key}: {value!r} must have {len(names)} entries: {', '.join(names)}"
        )
    pairs = zip(value, default, strict=True)
    return type(default)(*(like_default(key, entry, inner) for entry, inner in pairs))


def check_value(key: str, value: Any, default: Any) -> None:
    """Checks the value of an option of a network of this package.

    Raises:
      UserError: the value has another type than the default, or is out of range.
    """
    if not _has_type(value, type(default)):
        raise errors.UserError(
            f"model.{key} must be of type {type(default).__name__}, got {value!r}"
        )
    if type(default) is int and value < 1:
        raise errors.UserError(f"model.{key} must be at least 1, got {value!r}")
    if key.endswith("_rate") and not 0 <= value < 1:
        raise errors.UserError(f"model.{key} must be in [0, 1), got {value!r}")
    if key == "activation":
        layers.activation(value)
    if type(default) is tuple and default:
        _check_entries(key, value, default)


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _parameters(build: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Returns the parameters of a class or function; None if they cannot be read."""
    try:
        return list(inspect.signature(build).parameters.values())
    except (TypeError, ValueError):  # of a class or function that is not written in Python
        return None


def _takes_any(build: Callable[..., Any]) -> bool:
    """Returns True if any keyword may be given, or if the signature cannot be read."""
    parameters = _parameters(build)
    return parameters is None or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters
    )


def _check_entries(key: str, value: tuple[Any, ...], default: tuple[Any, ...]) -> None:
    """Checks the entries of a tuple: positive integers where the default has integers."""
    kinds = {type(entry) for entry in default}
    if kinds == {int} and not all(type(entry) is int and entry > 0 for entry in value):
        raise errors.UserError(f"model.{key} must contain positive integers only, got {value!r}")
    if len(kinds) == 1 and not all(type(entry) in kinds for entry in value):
        (kind,) = kinds
        raise errors.UserError(
            f"model.{key} must contain entries of type {kind.__name__} only, such as "
            f"{default[0]!r}, got {value!r}"
        )


def _has_type(value: Any, expected: type) -> bool:
    allowed = (int, float) if expected is float else expected
    return isinstance(value, allowed) and isinstance(value, bool) == (expected is bool)
