"""Patterns of parameters: regular expressions, searched in the paths of parameters.

A path joins the names of modules and of an array by '/', such as 'stage4/block1/conv1/kernel'.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax

from cnn_jax import errors

HEAD = "head"
"""The alias for the parameters of the network's head in `train.trainable` and `init.take`."""


def path(keys: Sequence[Any]) -> str:
    """Returns the path of a parameter from the keys of JAX.

    The attribute `value` of boxes, such as Flax's `nn.Partitioned`, is left out.
    """
    box = jax.tree_util.GetAttrKey("value")
    keys = tuple(key for key in keys if key != box)
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def paths(params: Any) -> list[str]:
    """Returns the path of each parameter of a tree."""
    return [path(keys) for keys, _ in jax.tree.leaves_with_path(params)]


def select(params: Any, patterns: Sequence[str]) -> Any:
    """Returns a tree of booleans: True for a parameter whose path matches one of the patterns.

    >>> select({"conv": {"kernel": 0, "bias": 0}}, ["kernel$"])
    {'conv': {'bias': False, 'kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: any(re.search(pattern, path(keys)) for pattern in patterns), params
    )


def check_syntax(key: str, given: str, pattern: str) -> None:
    """Checks that a pattern is a regular expression.

    Args:
      key: the config key, for messages.
      given: the pattern as the user wrote it, such as an alias.
      pattern: the pattern.

    Raises:
      UserError: the pattern is empty or no regular expression.
    """
    if not given:
        raise errors.UserError(
            f"{key} has an empty pattern, which would match every parameter; remove it, or write "
            "'.*' for every parameter"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise errors.UserError(f"{key} {given!r} is no regular expression: {error}") from error


def check_match(key: str, given: str, pattern: str, names: Sequence[str], hint: str = "") -> None:
    """Checks that a pattern matches a parameter.

    Args:
      key: the config key, for messages.
      given: the pattern as the user wrote it, such as an alias.
      pattern: the pattern.
      names: the paths of all parameters.
      hint: the end of the message.

    Raises:
      UserError: it matches none, or `check_syntax` raises an error.
    """
    check_syntax(key, given, pattern)
    if not any(re.search(pattern, name) for name in names):
        if given == pattern == HEAD:  # not resolved by the caller
            hint = "; 'head' is an alias in train.trainable and init.take only: give its path"
        raise errors.UserError(
            f"{key} {given!r} matches none of the {len(names)} parameters; "
            f"{errors.nearest(given, names)}; first: {', '.join(names[:3])}{hint}"
        )
