"""Conversion between state dicts of torch, timm or torchvision and variables of these networks.

Each family has a rename table that maps our module paths to the reference's names. `layout`
transposes the arrays. The conversion is strict: it uses every entry once and fills every variable.
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

# Torch's batch normalisation counts its batches. Flax has no such variable.
# Swin stores the index into its table of position biases, which is a constant.
_IGNORED = ("num_batches_tracked", "relative_position_index")

Path = tuple[str, ...]


class Entry(NamedTuple):
    """Entry of a state dict that corresponds to one variable.

    Attributes:
      name: the key in the state dict.
      shape: the shape in torch's layout.
      variable_shape: the shape of the variable, in Flax's layout.
      channels: for a dense kernel whose input is a flattened image, the image's channels; else
        None.
    """

    name: str
    shape: tuple[int, ...]
    variable_shape: tuple[int, ...]
    channels: int | None


def from_torch(
    name: str, state_dict: Mapping[str, np.ndarray], *, num_classes: int = 1000, **overrides: Any
) -> dict[str, Any]:
    """Converts a state dict of torch, timm or torchvision to variables of network `name`.

    A network can have several rename tables. The one that matches most keys of the state dict is
    used.

    Args:
      name: a network of `models.names()` that has a rename table.
      state_dict: name to array, in torch's layout.
      num_classes: of the checkpoint.
      **overrides: fields of the network that differ from the variant's, as in `models.create`.

    Returns:
      `{"params": ...}`, with `"batch_stats"` if the network has running statistics. The leaves are
      NumPy arrays: float64 where the state dict's are float64, else float32.

    Raises:
      ValueError: the network is unknown, or entries are missing, unexpected or of the wrong shape.
        One message lists all such entries.
    """
    expected = entries(name, state_dict, num_classes=num_classes, **overrides)
    check(name, {entry.name: entry.shape for entry in expected.values()}, state_dict)
    flat = {}
    for path, entry in expected.items():
        array = floats(state_dict[entry.name]).reshape(entry.shape)
        flat[path] = layout.from_torch(array, entry.channels).reshape(entry.variable_shape)
    return traverse_util.unflatten_dict(flat)


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts variables to a state dict with the reference's names: the inverse of `from_torch`.

    The state dict has no `num_batches_tracked`. The conversion only renames arrays and permutes
    their elements, so `{"params": gradients}` gives the gradients under torch's names.

    Args:
      name: the network.
      variables: `{"params": ...}`, `{"batch_stats": ...}` or both.

    Raises:
      ValueError: the network is unknown or has no rename table.
    """
    table = tables.for_network(name)[0]
    return {
        table.torch(path[1:]): layout.to_torch(
            np.asarray(leaf), _flattened_channels(table, path)
        ).reshape(_torch_shape(table, path, leaf.shape))
        for path, leaf in traverse_util.flatten_dict(variables).items()
    }


def entries(
    name: str, state_dict: Mapping[str, np.ndarray], *, num_classes: int, **overrides: Any
) -> dict[Path, Entry]:
    """Returns the entries that a state dict must have for network `name`, by variable path.

    Args:
      name: the network.
      state_dict: its keys select the rename table: the one that matches most of them.
      num_classes: of the checkpoint.
      **overrides: fields of the network.

    Raises:
      ValueError: the network is unknown or has no rename table.
    """
    tables.for_network(name)  # Raises for an unknown network.
    variables = shapes(name, models.input_shape(name), num_classes=num_classes, **overrides)
    table = _best_table(name, variables, state_dict)
    return {
        path: Entry(
            table.torch(path[1:]),
            _torch_shape(table, path, shape),
            shape,
            _flattened_channels(table, path),
        )
        for path, shape in variables.items()
    }


def options(name: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the options of `models.create` that a network needs to load a state dict.

    A network can have several rename tables (`families/`), for the state dicts of several
    libraries. The keys of the state dict select the table that matches most of them; the table
    holds the options.

    Args:
      name: the network.
      state_dict: the weights.

    Raises:
      ValueError: the network is unknown or has no rename table.
    """
    tables.for_network(name)  # Raises for an unknown network.
    paths = shapes(name, models.input_shape(name), num_classes=1)
    return dict(_best_table(name, paths, state_dict).options)


def _best_table(name: str, paths: Iterable[Path], state_dict: Mapping[str, np.ndarray]) -> Names:
    """Returns the rename table that maps most of `paths` to keys of the state dict."""
    known = tuple(paths)
    return max(
        tables.for_network(name),
        key=lambda table: sum(table.torch(p[1:]) in state_dict for p in known),
    )


def shapes(
    name: str, input_shape: tuple[int, int, int], **fields: Any
) -> dict[Path, tuple[int, ...]]:
    """Returns the shapes of the variables of network `name`, in `init`'s order of creation.

    Args:
      name: the network.
      input_shape: `(height, width, channels)` of the images.
      **fields: fields of the network, including `num_classes`.
    """
    return dict(_variable_shapes(models.create(name, **fields), input_shape))


@functools.lru_cache(
    maxsize=4
)  # Loading asks several times; tracing a large network takes seconds.
def _variable_shapes(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> dict[Path, tuple[int, ...]]:
    images = jnp.zeros((1, *input_shape))
    found: dict[Path, tuple[int, ...]] = {}

    def init() -> None:
        # The shapes are recorded during tracing because `eval_shape` returns sorted dictionaries.
        variables = model.init(jax.random.key(0), images, train=False)
        flat = traverse_util.flatten_dict(variables)
        found.update({path: leaf.shape for path, leaf in flat.items()})

    jax.eval_shape(init)
    return found


def _torch_shape(table: Names, path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in torch of the variable at `path`, whose shape is `shape`."""
    size = table.convolved.get(".".join(path[1:-1])) if path[-1] == "kernel" else None
    if size is None:
        return layout.shape_in_torch(shape)
    inputs, outputs = shape
    return (outputs, inputs // size**2, size, size)


def _flattened_channels(table: Names, path: Path) -> int | None:
    """Returns the channels of the flattened image that a dense kernel takes, else None."""
    return table.flattened.get(".".join(path[1:-1])) if path[-1] == "kernel" else None


def floats(array: np.ndarray) -> np.ndarray:
    """Returns a float64 array unchanged and converts any other to float32."""
    return np.asarray(array, np.float64 if array.dtype == np.float64 else np.float32)


def check(
    name: str, expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, np.ndarray]
) -> None:
    """Checks that `weights` have exactly the names and shapes of `expected`.

    Trailing axes of length 1 are ignored, because a dense layer may be stored as a 1x1
    convolution. Counters and constants (`_IGNORED`) are allowed as additional entries.

    Args:
      name: the network, for the message.
      expected: name to shape.
      weights: name to array.

    Raises:
      ValueError: names are missing or unexpected, or shapes differ. The message lists all of them.
    """
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in weights]
    problems += [
        f"unexpected: {key} {array.shape}"
        for key, array in weights.items()
        if key not in expected and not key.endswith(_IGNORED)
    ]
    problems += [
        f"misshapen: {key} has shape {weights[key].shape}, expected {shape}"
        for key, shape in expected.items()
        if key in weights
        and _without_trailing_ones(weights[key].shape) != _without_trailing_ones(shape)
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise errors.UserError(f"the weights do not fit {name}:\n  {listed}")


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
