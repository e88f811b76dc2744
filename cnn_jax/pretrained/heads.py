"""The layers that weights may lack: those that depend on the number of classes, auxiliary heads."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax import models
from cnn_jax.pretrained import convert

_AUXILIARY = "auxiliary_heads"  # the option of the networks that have some


def num_classes(name: str, state_dict: Mapping[str, np.ndarray], **overrides: Any) -> int:
    """The number of classes that a state dict of network `name` is for; 0 if it lacks the head."""
    head = _head(name, state_dict, overrides).values()
    found = (state_dict[entry.name].shape for entry in head if entry.name in state_dict)
    return max((shape[0] for shape in found if shape), default=0)


def without_auxiliary(
    name: str, state_dict: Mapping[str, np.ndarray], **overrides: Any
) -> dict[str, Any]:
    """`overrides`, and that network `name` has no auxiliary heads if the state dict has none."""
    if _AUXILIARY in overrides or _AUXILIARY not in models.options(name):
        return overrides
    plain = {**overrides, _AUXILIARY: False}
    entries, fewer = (
        convert.entries(name, state_dict, num_classes=1, **options)
        for options in (overrides, plain)
    )
    present = any(entries[path].name in state_dict for path in entries.keys() - fewer.keys())
    return overrides if present else plain


def with_new(
    name: str,
    state_dict: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    seed: int,
    **overrides: Any,
) -> dict[str, Any]:
    """As `convert.from_torch`, but what depends on the number of classes is as the network begins.

    Args:
      name: the network.
      state_dict: the weights; those of the head are not looked at.
      num_classes: of the new head.
      seed: of its parameters.
      **overrides: fields of the network.
    """
    model = models.create(name, num_classes=num_classes, **overrides)
    images = jnp.zeros((1, *models.input_shape(name)))
    head = _head(name, state_dict, overrides)

    @jax.jit
    def initial() -> dict[convert.Path, jax.Array]:
        flat = traverse_util.flatten_dict(model.init(jax.random.key(seed), images, train=False))
        return {path: flat[path] for path in head}  # The rest is not even computed.

    body = without(name, state_dict, num_classes=num_classes, **overrides)
    return traverse_util.unflatten_dict(body | jax.tree.map(np.asarray, initial()))


def without(
    name: str, state_dict: Mapping[str, np.ndarray], *, num_classes: int, **overrides: Any
) -> dict[convert.Path, np.ndarray]:
    """The variables by their paths as `convert.from_torch` gives them, zeros for the head."""
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
    one, two = (
        convert.entries(name, state_dict, num_classes=count, **overrides) for count in (1, 2)
    )
    return {path: entry for path, entry in one.items() if entry.ours != two[path].ours}
