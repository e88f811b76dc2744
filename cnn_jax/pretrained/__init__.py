"""Weights of other libraries as variables of our networks, and back.

A rename table for each family says what its modules are called there, rules of layout turn the
arrays around, and the merge is strict: every entry used once, every variable filled.

    variables = from_torch("vgg16", read_state_dict(Path("vgg16-397923af.pth")))
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.pretrained import (
    alexnet,
    googlenet,
    inception,
    inception_v4,
    layout,
    squeezenet,
    vgg,
)
from cnn_jax.pretrained.files import read_state_dict
from cnn_jax.pretrained.names import Names

__all__ = ["from_torch", "read_state_dict", "to_torch"]

_NAMES: Mapping[str, Names] = MappingProxyType(
    alexnet.NAMES
    | vgg.NAMES
    | squeezenet.NAMES
    | googlenet.NAMES
    | inception.NAMES
    | inception_v4.NAMES
)

# Torch counts batches in each normalisation layer; nothing of ours depends on it.
_IGNORED = "num_batches_tracked"

Path = tuple[str, ...]


def from_torch(
    name: str, state_dict: Mapping[str, np.ndarray], *, num_classes: int = 1000, **overrides: Any
) -> dict[str, Any]:
    """The variables of network `name` from a state dict of torch, timm or torchvision.

    Args:
      name: one of `models.names()` that has a rename table.
      state_dict: name to array, in torch's layout.
      num_classes: of the checkpoint.
      **overrides: fields of the network that differ from the variant's, as in `models.create`.

    Returns:
      `{"params": ...}`, with `"batch_stats"` where the network has them; arrays of NumPy, float64
      where the state dict's are, else float32.

    Raises:
      ValueError: an unknown network, or entries that are missing, unexpected or misshapen: all of
        them in one message.
    """
    table = _table(name)
    shapes = _shapes(name, num_classes, overrides)
    expected = {path: table.torch(path[1:]) for path in shapes}
    _check(name, {expected[path]: shape for path, shape in shapes.items()}, state_dict)
    flat = {
        path: layout.from_torch(_floats(state_dict[torch_name]), _channels(table, path))
        for path, torch_name in expected.items()
    }
    return traverse_util.unflatten_dict(flat)


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: a state dict without counters of batches.

    The rules of layout being linear, `{"params": gradients}` gives gradients by torch's names.

    Raises:
      ValueError: an unknown network.
    """
    table = _table(name)
    return {
        table.torch(path[1:]): layout.to_torch(np.asarray(leaf), _channels(table, path))
        for path, leaf in traverse_util.flatten_dict(variables).items()
    }


def _table(name: str) -> Names:
    models.options(name)  # Raises for an unknown network.
    if name not in _NAMES:
        raise errors.unknown("network with published weights", name, sorted(_NAMES))
    return _NAMES[name]


def _channels(table: Names, path: Path) -> int | None:
    """Of the image that this kernel sees flattened."""
    return table.flattened.get(".".join(path[1:-1])) if path[-1] == "kernel" else None


def _shapes(name: str, num_classes: int, overrides: Mapping[str, Any]) -> dict[Path, Any]:
    """The shape in torch of each variable."""
    model = models.create(name, num_classes=num_classes, **overrides)
    images = jnp.zeros((1, *models.input_shape(name)))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    flat = traverse_util.flatten_dict(variables)
    return {path: layout.shape_in_torch(leaf.shape) for path, leaf in flat.items()}


def _floats(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64 if array.dtype == np.float64 else np.float32)


def _check(
    name: str, shapes: Mapping[str, tuple[int, ...]], state_dict: Mapping[str, np.ndarray]
) -> None:
    problems = [f"missing: {key} {shape}" for key, shape in shapes.items() if key not in state_dict]
    problems += [
        f"unexpected: {key} {array.shape}"
        for key, array in state_dict.items()
        if key not in shapes and not key.endswith(_IGNORED)
    ]
    problems += [
        f"misshapen: {key} is {state_dict[key].shape}, not {shape}"
        for key, shape in shapes.items()
        if key in state_dict and state_dict[key].shape != shape
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise errors.UserError(f"the state dict does not fit {name}:\n  {listed}")
