"""Weights of other libraries as variables of our networks, and back.

A rename table for each family says what its modules are called there, rules of layout turn the
arrays around, and the merge is strict: every entry used once, every variable filled.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.pretrained import layout
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.families.names import Names

# Torch counts batches in each normalisation layer; nothing of ours depends on it.
# Swin's index of its table of biases is a constant.
_IGNORED = ("num_batches_tracked", "relative_position_index")

Path = tuple[str, ...]


class Entry(NamedTuple):
    """What a variable is in a state dict.

    Attributes:
      name: the key there.
      shape: in torch's layout.
      ours: the variable's shape.
      channels: of the image that it sees flattened, if it does.
    """

    name: str
    shape: tuple[int, ...]
    ours: tuple[int, ...]
    channels: int | None


def from_torch(
    name: str, state_dict: Mapping[str, np.ndarray], *, num_classes: int = 1000, **overrides: Any
) -> dict[str, Any]:
    """The variables of network `name` from a state dict of torch, timm or torchvision.

    Where a network's weights go by several sets of names, the state dict tells by which.

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
    expected = entries(name, state_dict, num_classes=num_classes, **overrides)
    check(name, {entry.name: entry.shape for entry in expected.values()}, state_dict)
    flat = {}
    for path, entry in expected.items():
        array = floats(state_dict[entry.name]).reshape(entry.shape)
        flat[path] = layout.from_torch(array, entry.channels).reshape(entry.ours)
    return traverse_util.unflatten_dict(flat)


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: a state dict by the reference's names, no batches counted.

    The rules of layout being linear, `{"params": gradients}` gives gradients by torch's names.

    Raises:
      ValueError: an unknown network.
    """
    table = tables.of(name)[0]
    return {
        table.torch(path[1:]): layout.to_torch(np.asarray(leaf), _channels(table, path)).reshape(
            _shape(table, path, leaf.shape)
        )
        for path, leaf in traverse_util.flatten_dict(variables).items()
    }


def entries(
    name: str, state_dict: Mapping[str, np.ndarray], *, num_classes: int, **overrides: Any
) -> dict[Path, Entry]:
    """What a state dict has to hold for network `name`, by our paths.

    Args:
      name: the network.
      state_dict: by its names the table is chosen that most of them are in.
      num_classes: of the checkpoint.
      **overrides: fields of the network.

    Raises:
      ValueError: an unknown network.
    """
    tables.of(name)  # Raises for an unknown network.
    ours = shapes(name, models.input_shape(name), num_classes=num_classes, **overrides)
    table = _table(name, ours, state_dict)
    return {
        path: Entry(
            table.torch(path[1:]), _shape(table, path, shape), shape, _channels(table, path)
        )
        for path, shape in ours.items()
    }


def options(name: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of network `name` that weights by the names in a state dict are for."""
    tables.of(name)  # Raises for an unknown network.
    paths = shapes(name, models.input_shape(name), num_classes=1)
    return dict(_table(name, paths, state_dict).options)


def _table(name: str, paths: Iterable[Path], state_dict: Mapping[str, np.ndarray]) -> Names:
    """The one by which most variables are in the state dict."""
    known = tuple(paths)
    return max(
        tables.of(name), key=lambda table: sum(table.torch(p[1:]) in state_dict for p in known)
    )


def shapes(
    name: str, input_shape: tuple[int, int, int], **fields: Any
) -> dict[Path, tuple[int, ...]]:
    """The shapes of the variables of network `name`, in the order in which `init` makes them.

    Args:
      name: the network.
      input_shape: height, width and channels of its images.
      **fields: of the network, its number of classes among them.
    """
    return dict(_traced(models.create(name, **fields), input_shape))


@functools.lru_cache(maxsize=4)  # Loading asks several times, and a large network takes seconds.
def _traced(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[Path, tuple[int, ...]]:
    images = jnp.zeros((1, *input_shape))
    found: dict[Path, tuple[int, ...]] = {}

    def init() -> None:  # What `eval_shape` returns would be sorted.
        variables = model.init(jax.random.key(0), images, train=False)
        flat = traverse_util.flatten_dict(variables)
        found.update({path: leaf.shape for path, leaf in flat.items()})

    jax.eval_shape(init)
    return found


def _shape(table: Names, path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    size = table.convolved.get(".".join(path[1:-1])) if path[-1] == "kernel" else None
    if size is None:
        return layout.shape_in_torch(shape)
    inputs, outputs = shape
    return (outputs, inputs // size**2, size, size)


def _channels(table: Names, path: Path) -> int | None:
    """Of the image that this kernel sees flattened."""
    return table.flattened.get(".".join(path[1:-1])) if path[-1] == "kernel" else None


def floats(array: np.ndarray) -> np.ndarray:
    """The same in float64 if it is that, else in float32."""
    return np.asarray(array, np.float64 if array.dtype == np.float64 else np.float32)


def check(
    name: str, expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, np.ndarray]
) -> None:
    """Raise a ValueError that lists all in which `weights` differ from the shapes `expected`.

    Axes of one element at the end are no difference: a 1x1 convolution may be a dense layer.
    """
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in weights]
    problems += [
        f"unexpected: {key} {array.shape}"
        for key, array in weights.items()
        if key not in expected and not key.endswith(_IGNORED)
    ]
    problems += [
        f"misshapen: {key} is {weights[key].shape}, not {shape}"
        for key, shape in expected.items()
        if key in weights and _essential(weights[key].shape) != _essential(shape)
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise errors.UserError(f"the weights do not fit {name}:\n  {listed}")


def _essential(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
