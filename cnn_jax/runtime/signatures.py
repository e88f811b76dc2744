"""Checks of the functions that a config names as 'module:attribute', before they are called."""

import inspect
from collections.abc import Mapping
from typing import Any

from cnn_jax import errors


def check(
    function: Any, key: str, reference: str, arguments: tuple[str, ...], options: Mapping[str, Any]
) -> None:
    """Checks that a user's function takes the arguments that it will be called with.

    Args:
      function: the object that the config names.
      key: the config key, such as 'loss.name'.
      reference: the value of the key.
      arguments: the names of the positional arguments, for messages.
      options: the keyword arguments.

    Raises:
      UserError: the object is not callable, or does not take these arguments.
    """
    wanted = f"{key} {reference!r} must be a function of {_listed(arguments, options)}"
    if not callable(function):
        raise errors.UserError(f"{wanted}; got an object of type {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # Some compiled functions have no signature.
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise errors.UserError(f"{wanted}; {name}{signature} is not: {error}") from error


def _listed(arguments: tuple[str, ...], options: Mapping[str, Any]) -> str:
    return f"({', '.join((*arguments, *(f'{name}=' for name in options)))})"
