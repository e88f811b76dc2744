"""Layers that a checkpoint may lack: the classification head and auxiliary heads.

The head consists of the variables whose shape depends on the number of classes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from cnn_jax import models
from cnn_jax.pretrained import convert, layout
from cnn_jax.pretrained.network import Network, Path
from cnn_jax.runtime import prng

_AUXILIARY = "auxiliary_heads"  # the field of networks that have auxiliary heads


class _Output(NamedTuple):
    """Entry of the head, with the axis whose length is the number of classes."""

    entry: convert.Entry
    axis: int


def num_classes(network: Network, state_dict: Mapping[str, np.ndarray]) -> int | None:
    """Returns the number of classes of a state dict's head, or 0 if it has no head.

    Returns None if no variable of the network depends on that number, as in lenet5.

    Args:
      network: the network.
      state_dict: name to array.
    """
    head = _head(network, state_dict).values()
    if not head:
        return None
    found = ((state_dict[o.entry.name].shape, o.axis) for o in head if o.entry.name in state_dict)
    return max((shape[axis] for shape, axis in found if len(shape) > axis), default=0)


def detect_auxiliary(network: Network, state_dict: Mapping[str, np.ndarray]) -> Network:
    """Returns the network, without auxiliary heads if the state dict has none.

    Returns it unchanged if its options set `auxiliary_heads` or it has no such field.

    Args:
      network: the network.
      state_dict: name to array.
    """
    if _AUXILIARY in network.options or _AUXILIARY not in models.options(network.name):
        return network
    plain = network.with_options(**{_AUXILIARY: False})
    entries, fewer = (convert.entries(each, state_dict, 1) for each in (network, plain))
    present = any(entries[path].name in state_dict for path in entries.keys() - fewer.keys())
    return network if present else plain


def with_new_head(
    network: Network, state_dict: Mapping[str, np.ndarray], count: int, *, seed: int
) -> dict[str, Any]:
    """Converts a state dict like `convert.to_variables`, but with a newly initialised head.

    Args:
      network: the network.
      state_dict: the weights; entries of the head are ignored.
      count: the number of classes of the new head.
      seed: of the new head's parameters.

    Raises:
      UserError: the weights other than the head do not fit the network.
    """
    model = network.create(count)
    head = _head(network, state_dict)

    @jax.jit
    def initial() -> dict[Path, jax.Array]:
        variables = model.init(prng.key(seed), network.images(), train=False)
        flat = traverse_util.flatten_dict(variables)
        return {path: flat[path] for path in head}  # XLA drops the computation of the rest.

    body = with_zero_head(network, state_dict, count)
    new = {path: layout.owned(np.asarray(leaf)) for path, leaf in initial().items()}
    return traverse_util.unflatten_dict(body | new)


def with_zero_head(
    network: Network, state_dict: Mapping[str, np.ndarray], count: int
) -> dict[Path, np.ndarray]:
    """Converts a state dict like `convert.to_variables`, but with zeros for the head.

    Args:
      network: the network.
      state_dict: the weights; entries of the head are ignored.
      count: the number of classes of the head.

    Returns:
      The variables by their paths, flattened.

    Raises:
      UserError: the weights other than the head do not fit the network.
    """
    head = _head(network, state_dict)
    expected = convert.entries(network, state_dict, count)
    blank = {
        entry.name: np.broadcast_to(np.float32(0), entry.shape)
        for path, entry in expected.items()
        if path in head
    }
    variables = convert.to_variables(network, state_dict, count, replaced=blank)
    return traverse_util.flatten_dict(variables)


def without_head(network: Network, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts a state dict to the variables of a network with `num_classes=0`.

    Args:
      network: the network.
      state_dict: the weights; entries of the head are ignored.

    Raises:
      UserError: the weights other than the head do not fit the network.
    """
    known, wanted = (
        {entry.name for entry in convert.entries(network, state_dict, count).values()}
        for count in (1, 0)
    )
    body = {key: array for key, array in state_dict.items() if key not in known - wanted}
    return convert.to_variables(network, body, 0)


def _head(network: Network, state_dict: Mapping[str, np.ndarray]) -> dict[Path, _Output]:
    """Returns the entries whose shape differs between 1 and 2 classes."""
    one, two = (convert.entries(network, state_dict, count) for count in (1, 2))
    return {
        path: _Output(entry, axis)
        for path, entry in one.items()
        for axis, pair in enumerate(zip(entry.shape, two[path].shape, strict=True))
        if len(set(pair)) > 1
    }
