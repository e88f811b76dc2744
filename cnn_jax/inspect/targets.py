"""The classes whose scores are explained."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors

Target = int | str | None
"""A class by index or name; None for the class with the highest logit."""


HIGHEST = -1
"""Stands for the class with the highest logit."""


def indices(
    class_names: Sequence[str], count: int, target: Target | Sequence[Target]
) -> np.ndarray:
    """Returns the index of the class to explain for each image, or `HIGHEST`, `[N]` int32.

    Args:
      class_names: the name of each class.
      count: the number of images, N.
      target: a class for all images, or one for each.

    Raises:
      UserError: there is no such class, or the number of classes differs from that of the images.
    """
    if target is None or isinstance(target, int | str | np.integer):
        wanted: Sequence[Target] = [target] * count
    else:
        wanted = list(target)
    if len(wanted) != count:
        raise errors.UserError(
            f"{len(wanted)} classes are given for {count} images; give one class for all images, "
            "or one for each"
        )
    found = [HIGHEST if one is None else index(class_names, one) for one in wanted]
    return np.array(found, np.int32)


def chosen(given: jax.Array | np.ndarray, logits: jax.Array | np.ndarray) -> jax.Array:
    """Returns the classes `[N]` int32 that `indices` gave, with `HIGHEST` replaced; traceable.

    Args:
      given: `[N]` int32.
      logits: `[N, K]`.
    """
    return jnp.where(given == HIGHEST, jnp.argmax(logits, -1).astype(given.dtype), given)


def index(class_names: Sequence[str], target: int | str) -> int:
    """Returns the index of a class; a number in a text is an index if no class has this name.

    Raises:
      UserError: there is no such class.
    """
    if isinstance(target, str) and target in class_names:
        return class_names.index(target)
    if isinstance(target, str) and not target.isdecimal():
        near = errors.nearest(target, class_names)
        raise errors.UserError(
            f"unknown class {target!r} of {len(class_names):,} classes; {near}; an index is "
            "allowed too"
        )
    number = int(target)
    if not 0 <= number < len(class_names):
        raise errors.UserError(
            f"class {number} does not exist; the network has the classes 0 to "
            f"{len(class_names) - 1}"
        )
    return number
