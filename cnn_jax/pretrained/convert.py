"""Conversion between state dicts of torch, timm or torchvision and variables of these networks.

Each family has a rename table that maps our module paths to the reference's names. `layout`
transposes the arrays. The conversion is strict: it uses every entry once and fills every variable.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.pretrained import fit, layout
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.families.names import Names
from cnn_jax.pretrained.fitting import naming
from cnn_jax.pretrained.network import Network, Path, Shape

# If fewer of the weights' entries fit, they are compared with other networks.
_CLOSE = 0.9
# Endings of names that torch.ao.quantization, bitsandbytes and compressed-tensors add.
_QUANTISED = (".zero_point", "._packed_params", ".SCB", ".weight_scale", ".weight_zero_point")
_VARIANCES = ("running_var", "moving_variance", ".var")  # in torch, Keras and Flax
_CANDIDATES = 5  # the number of these networks; each takes up to 2 s


class Entry(NamedTuple):
    """Entry of a state dict that corresponds to one variable.

    Attributes:
      name: the key in the state dict.
      shape: the shape in the state dict.
      variable_shape: the shape of the variable, in Flax's layout.
      channels: for a dense kernel whose input is a flattened image, the image's channels; else
        None.
      torch: True if the array in the state dict has torch's layout, False for Flax's.
    """

    name: str
    shape: Shape
    variable_shape: Shape
    channels: int | None
    torch: bool

    def to_variable(self, array: np.ndarray) -> np.ndarray:
        """Converts the entry's array in a state dict to the variable, in float32 or float64.

        Raises:
          UserError: as for `floats`.
        """
        array = floats(self.name, array).reshape(self.shape)
        if self.torch:
            array = layout.from_torch(array, self.channels)
        return layout.owned(array.reshape(self.variable_shape))

    def from_variable(self, array: np.ndarray) -> np.ndarray:
        """Converts the variable to the entry's array in a state dict, of the same dtype."""
        if self.torch:
            if len(self.shape) == 4 and array.ndim == 2:  # A convolution in the state dict.
                outputs, inputs, height, width = self.shape
                array = array.reshape(height, width, inputs, outputs)
            array = layout.to_torch(array, self.channels)
        return layout.owned(array.reshape(self.shape))


def from_torch(
    name: str,
    state_dict: Mapping[str, np.ndarray],
    *,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Converts a state dict of torch, timm or torchvision to variables of network `name`.

    A network can have several rename tables. The one that matches most keys of the state dict is
    used.

    Args:
      name: a network of `models.names()` that has a rename table.
      state_dict: name to array, in torch's layout.
      num_classes: of the checkpoint.
      input_shape: height, width and channels of the images, on which some shapes depend. By default
        the shape for which the network was published.
      **overrides: fields of the network that differ from the variant's, as in `models.create`.

    Returns:
      `{"params": ...}`, with `"batch_stats"` if the network has running statistics. The leaves are
      NumPy arrays in C order that own their data: float64 where the state dict's are float64, else
      float32.

    Raises:
      UserError: the network is unknown, or entries are missing, unexpected or of the wrong shape.
        The message has their number, the likely cause, and examples. Also if an entry has another
        dtype than floating point, or a value that is not finite in float32.
    """
    tables.for_network(name)  # Raises for a network without a rename table.
    network = Network.of(name, input_shape, overrides)
    return to_variables(network, state_dict, num_classes)


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts variables to a state dict with the reference's names: the inverse of `from_torch`.

    The state dict has no `num_batches_tracked`. The conversion only renames arrays and permutes
    their elements, so `{"params": gradients}` gives the gradients under torch's names.

    Args:
      name: the network.
      variables: `{"params": ...}`, `{"batch_stats": ...}` or both.

    Returns:
      Name to array, in torch's layout. Each array is in C order and owns its data.

    Raises:
      UserError: the network is unknown or has no rename table.
    """
    return to_state_dict(tables.for_network(name)[0], variables)


def to_variables(
    network: Network,
    state_dict: Mapping[str, np.ndarray],
    num_classes: int,
    replaced: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Any]:
    """Converts a state dict like `from_torch`, but also one with Flax's names and layout.

    Args:
      network: the network.
      state_dict: name to array.
      num_classes: of the checkpoint.
      replaced: name to array, for entries of the state dict that are ignored and may be missing.
    """
    expected = entries(network, state_dict, num_classes)
    kept = {name: array for name, array in state_dict.items() if name not in replaced}
    wanted = {e.name: e.shape for e in expected.values() if e.name not in replaced}
    fit.check(network.name, wanted, kept, lambda: _likely_cause(network, state_dict))
    arrays = kept | dict(replaced)
    flat = {path: entry.to_variable(arrays[entry.name]) for path, entry in expected.items()}
    return traverse_util.unflatten_dict(flat)


def to_state_dict(table: Names, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts variables like `to_torch`, to the names and the layout of `table`."""
    state_dict = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        array = np.asarray(leaf)
        found = entry(table, path, array.shape)
        state_dict[found.name] = found.from_variable(array)
    return state_dict


def entries(
    network: Network, state_dict: Mapping[str, np.ndarray], num_classes: int
) -> dict[Path, Entry]:
    """Returns the entries that a state dict must have for a network, by variable path.

    Args:
      network: the network.
      state_dict: its keys select the rename table: the one that matches most of them.
      num_classes: of the checkpoint.
    """
    variables = network.shapes(num_classes)
    table = best_table(network.name, variables, state_dict)
    return {path: entry(table, path, shape) for path, shape in variables.items()}


def entry(table: Names, path: Path, shape: Shape) -> Entry:
    """Returns the entry of the variable at `path`, whose shape is `shape`.

    Args:
      table: the names and the layout of the state dict.
      path: of the variable.
      shape: of the variable.
    """
    if table.flax:
        return Entry(table.name(path), shape, shape, None, torch=False)
    module = ".".join(path[1:-1]) if path[-1] == "kernel" else ""
    size, channels = table.convolved.get(module), table.flattened.get(module)
    if size is None:
        theirs = layout.shape_in_torch(shape)
    else:
        inputs, outputs = shape
        theirs = (outputs, inputs // size**2, size, size)
    return Entry(table.name(path), theirs, shape, channels, torch=True)


def options(network: Network, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the options of `models.create` that a network needs to load a state dict.

    A network can have several rename tables (`families/`), for the state dicts of several
    libraries. The keys of the state dict select the table that matches most of them; the table
    holds the options.

    Args:
      network: the network.
      state_dict: the weights.
    """
    if not any(table.options for table in tables.for_file(network.name)):
        return {}
    return dict(best_table(network.name, network.shapes(1), state_dict).options)


def floats(name: str, array: np.ndarray) -> np.ndarray:
    """Returns weights in float64 if they are float64, else in float32.

    Args:
      name: of the entry, for messages.
      array: the weights, in any floating-point dtype.

    Raises:
      UserError: the dtype is another, a value is not finite in float32, or a variance is negative.
        Networks keep their parameters in float32.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise errors.UserError(
            f"{name[:99]!r} has the dtype {array.dtype}; weights must have a floating-point dtype, "
            "such as float32 or bfloat16; of quantised weights, load those before quantisation"
        )
    with np.errstate(over="ignore"):
        narrow = np.asarray(array, np.float32)
    finite = np.isfinite(narrow)
    if not finite.all():
        count = array.size - np.count_nonzero(finite)
        raise errors.UserError(
            f"{name[:99]!r} has {count:,} of {array.size:,} values that are NaN, infinite or too "
            "large for float32; load other weights, such as an earlier checkpoint"
        )
    if name.endswith(_VARIANCES) and (narrow < 0).any():
        raise errors.UserError(
            f"{name[:99]!r} has {np.count_nonzero(narrow < 0):,} of {array.size:,} variances below "
            "0, which no batch has; load other weights, such as an earlier checkpoint"
        )
    return array if array.dtype == np.float64 else narrow


def best_table(name: str, paths: Iterable[Path], state_dict: Mapping[str, np.ndarray]) -> Names:
    """Returns the table that maps most of `paths` to keys of the state dict."""
    known = tuple(paths)
    return max(
        tables.for_file(name),
        key=lambda table: sum(table.name(path) in state_dict for path in known),
    )


def _likely_cause(network: Network, weights: Mapping[str, np.ndarray]) -> str:
    """Returns a clause that says for which network or input shape the weights are, or ''."""
    if cause := _cause_in_names(network, weights):
        return cause
    own = _share(network, weights)
    for shape in _published_shapes(network) if own < 1 else ():
        if _share(Network(network.name, shape, network.options), weights) == 1:
            given, published = ("x".join(map(str, sides)) for sides in (network.input_shape, shape))
            return (
                f"they are for images of {published} (height x width x channels), not {given}; "
                "convert the images to that shape, or do without these weights"
            )
    if own >= _CLOSE:  # The weights are of this network, but damaged or changed.
        return ""
    best, name = 0.0, ""
    for candidate in _similar(network.name):
        found = _share(Network.of(candidate, None, {}), weights)
        if found > best:
            best, name = found, candidate
        if best == 1:
            return f"they fit {name}; pass that name (name=, --model= or model.name)"
    if best > max(own, 0.5):
        return f"{name} fits better, with {best:.0%} of the entries"
    if network.name not in tables.published():
        return "files of this network have Flax's names and layout, as pretrained.save writes them"
    return ""


def _cause_in_names(network: Network, weights: Mapping[str, np.ndarray]) -> str:
    """Returns a clause about names that quantisation or a wrapper added, or ''."""
    if count := sum(key.endswith(_QUANTISED) for key in weights):
        return f"{count} names are of quantised weights; load those that the network had before"
    return naming.hint(network, weights)


def _published_shapes(network: Network) -> Iterator[tuple[int, int, int]]:
    """Yields other input shapes: first with the published channels, then the published shape."""
    if network.name not in models.names():
        return  # Networks named 'module:attribute' have no published shape.
    published = models.input_shape(network.name)
    nearer = (*network.input_shape[:2], published[2])
    yield from (
        shape for shape in dict.fromkeys((nearer, published)) if shape != network.input_shape
    )


def _similar(name: str) -> list[str]:
    """Returns the networks with published weights whose names are most similar to `name`."""
    others = [other for other in tables.published() if other != name]
    near = difflib.get_close_matches(name, others, n=len(others), cutoff=0)
    return sorted(near, key=lambda other: name not in other and other not in name)[:_CANDIDATES]


def _share(network: Network, weights: Mapping[str, np.ndarray]) -> float:
    found = entries(network, weights, num_classes=1)
    shapes = {entry.name: entry.shape for entry in found.values()}
    return fit.share(shapes, weights, outputs_first=all(entry.torch for entry in found.values()))
