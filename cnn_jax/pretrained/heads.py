"""Layers that a checkpoint may lack: the classification head and auxiliary heads.

The head consists of the variables whose shape depends on the number of classes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax import models
from cnn_jax.pretrained import convert

_AUXILIARY = "auxiliary_heads"  # the field of networks that have auxiliary heads


def num_classes(name: str, state_dict: Mapping[str, np.ndarray], **overrides: Any) -> int:
    """Returns the number of classes of a state dict's head, or 0 if it has no head.

    Args:
      name: the network.
      state_dict: name to array, in torch's layout.
      **overrides: fields of the network.
    """
    head = _head(name, state_dict, overrides).values()
    found = (state_dict[entry.name].shape for entry in head if entry.name in state_dict)
    return max((shape[0] for shape in found if shape), default=0)


def detect_auxiliary(
    name: str, state_dict: Mapping[str, np.ndarray], **overrides: Any
) -> dict[str, Any]:
    """Returns `overrides`, with `auxiliary_heads=False` if the state dict has no auxiliary heads.

    Returns `overrides` unchanged if they set `auxiliary_heads` or the network has no such field.

    Args:
      name: the network.
      state_dict: name to array, in torch's layout.
      **overrides: fields of the network.
    """
    if _AUXILIARY in overrides or _AUXILIARY not in models.options(name):
        return overrides
    plain = {**overrides, _AUXILIARY: False}
    entries, fewer = (
        convert.entries(name, state_dict, num_classes=1, **options)
        for options in (overrides, plain)
    )
    present = any(entries[path].name in state_dict for path in entries.keys() - fewer.keys())
    return overrides if present else plain


def with_new_head(
    name: str,
    state_dict: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    seed: int,
    **overrides: Any,
) -> dict[str, Any]:
    """Converts a state dict like `convert.from_torch`, but with a newly initialised head.

    Args:
      name: the network.
      state_dict: the weights; entries of the head are ignored.
      num_classes: of the new head.
      seed: of the new head's parameters.
      **overrides: fields of the network.

    Raises:
      ValueError: the weights other than the head do not fit the network.
    """
    model = models.create(name, num_classes=num_classes, **overrides)
    images = jnp.zeros((1, *models.input_shape(name)))
    head = _head(name, state_dict, overrides)

    @jax.jit
    def initial() -> dict[convert.Path, jax.Array]:
        flat = traverse_util.flatten_dict(model.init(jax.random.key(seed), images, train=False))
        return {path: flat[path] for path in head}  # XLA drops the computation of the rest.

    body = with_zero_head(name, state_dict, num_classes=num_classes, **overrides)
    return traverse_util.unflatten_dict(body | jax.tree.map(np.asarray, initial()))


def with_zero_head(
    name: str, state_dict: Mapping[str, np.ndarray], *, num_classes: int, **overrides: Any
) -> dict[convert.Path, np.ndarray]:
    """Converts a state dict like `convert.from_torch`, but with zeros for the head.

    Args:
      name: the network.
      state_dict: the weights; entries of the head are ignored.
      num_classes: of the head.
      **overrides: fields of the network.

    Returns:
      The variables by their paths, flattened.

    Raises:
      ValueError: the weights other than the head do not fit the network.
    """
    head = _head(name, state_dict, overrides)
    expected = convert.entries(name, state_dict, num_classes=num_classes, **overrides)
    blank = {
        entry.name: np.broadcast_to(np.float32(0), entry.shape)
        for path, entry in expected.items()
        if path in head
    }
    filled = {**state_dict, **blank}
    variables = convert.from_torch(name, filled, num_classes=num_classes, **overrides)
    return traverse_util.flatten_dict(variables)


def _head(
    name: str, state_dict: Mapping[str, np.ndarray], overrides: Mapping[str, Any]
) -> dict[convert.Path, convert.Entry]:
    """Returns the entries whose shape differs between 1 and 2 classes."""
    one, two = (
        convert.entries(name, state_dict, num_classes=count, **overrides) for count in (1, 2)
    )
    return {
        path: entry
        for path, entry in one.items()
        if entry.variable_shape != two[path].variable_shape
    }
