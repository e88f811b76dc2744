"""Weights files for other libraries and for `pretrained.load`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.pretrained import convert, fit, heads, record
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.families.names import Names
from cnn_jax.pretrained.formats import writer
from cnn_jax.pretrained.network import Network, check_classes
from cnn_jax.pretrained.preprocessing import Preprocessing
from cnn_jax.pretrained.record import Record

_COLLECTIONS = ("params", "batch_stats")


def save(
    path: str | os.PathLike[str],
    model_name: str,
    variables: Mapping[str, Any],
    *,
    num_classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> None:
    """Writes the variables of a network to a safetensors file, which `pretrained.load` reads.

    The metadata of the file has the network, its number of classes, its overrides, the input shape,
    the preprocessing and the version of cnn_jax. Names and layout of the arrays:

    - Networks that timm has: timm's names, and torch's layout. Their metadata has `format: pt`.
    - Other networks that have published weights: the names of their reference, and torch's layout.
      VGG for another input size than the published one too: its dense layers are 7x7 convolutions
      in timm.
    - All other networks: Flax's names and layout, such as 'params.conv1.kernel' `[kh, kw, I, O]`.
      `flax.traverse_util.unflatten_dict(tensors, sep=".")` gives the variables. Their metadata has
      `format: flax`.

    After a crash, the file has either its old or its new content.

    Args:
      path: the file, which must end in '.safetensors'.
      model_name: the network.
      variables: `{"params": ..., "batch_stats": ...}`, without `batch_stats` where the network has
        none.
      num_classes: the number of classes. By default that of the head; required for networks in
        which no variable depends on it, such as lenet5.
      input_shape: height, width and channels of the network's images, on which some shapes depend.
        By default the shape for which the network was published.
      preprocessing: the preprocessing that `load` returns with the network. By default the
        network's usual one.
      overwrite: True to replace an existing file.
      **overrides: fields with which the network was created, as in `models.create`.

    Raises:
      UserError: the network is unknown, the variables or the preprocessing do not fit it, a value
        is not finite, or the file exists or cannot be written.
    """
    target = Path(path)
    writer.check_path(target, overwrite)
    network = Network.of(model_name, input_shape, overrides)
    named = _named(variables)
    network = heads.detect_auxiliary(network, named)
    num_classes = _count(network, named, num_classes)
    expected = convert.entries(network, named, num_classes)
    fit.check(model_name, {".".join(path): e.variable_shape for path, e in expected.items()}, named)
    for key, array in named.items():
        convert.floats(key, array)  # `load` would refuse the file.
    if preprocessing is not None:
        _check_preprocessing(preprocessing, num_classes, network.input_shape[-1])
    table = _table(network)
    description = Record(
        model_name, num_classes, network.input_shape, network.options, preprocessing
    )
    metadata = record.to_metadata(description, "flax" if table.flax else "pt")
    tensors = convert.to_state_dict(table, variables)
    if len(tensors) != len(named):
        raise errors.UserError(
            f"two variables of {model_name} have the same name in the file; their module names "
            "must not contain dots"
        )
    writer.write(target, tensors, metadata, overwrite=overwrite)


def _table(network: Network) -> Names:
    """Returns the rename table: from paths of variables to names in the file."""
    published = network.name in tables.published()
    if published and network.input_shape[:2] != models.input_shape(network.name)[:2]:
        return tables.for_network(network.name)[0]
    return tables.for_timm(network.name)


def _count(network: Network, named: Mapping[str, np.ndarray], given: int | None) -> int:
    """Returns the number of classes of variables.

    Raises:
      UserError: `given` is another number, or is needed.
    """
    found = heads.num_classes(network, named)
    if found is not None and given not in (None, found):
        raise errors.UserError(
            f"the variables of {network.name} have a head for {found} classes, got "
            f"num_classes={given}; remove num_classes"
        )
    count = given if found is None else found
    if count is None:
        raise errors.UserError(
            f"no variable of {network.name} depends on the number of classes; pass num_classes="
        )
    check_classes(count)
    return count


def _named(variables: Any) -> dict[str, np.ndarray]:
    """Returns the variables by their paths, joined by dots.

    Raises:
      UserError: they are no mapping, have no parameters, or have other collections.
    """
    found = list(variables) if isinstance(variables, Mapping) else type(variables).__name__
    if not isinstance(variables, Mapping) or not {"params"} <= set(found) <= set(_COLLECTIONS):
        raise errors.UserError(
            f"variables must be a mapping with {' and '.join(map(repr, _COLLECTIONS))}, such as "
            f"the result of model.init or state.variables; got {found}"
        )
    return {
        key: np.asarray(leaf)
        for key, leaf in traverse_util.flatten_dict(variables, sep=".").items()
    }


def _check_preprocessing(given: Preprocessing, num_classes: int, channels: int) -> None:
    """Checks that a preprocessing has the classes and channels of the network.

    Raises:
      UserError: the numbers differ.
    """
    if num_classes and len(given.class_names) != num_classes:
        raise errors.UserError(
            f"preprocessing.class_names has {len(given.class_names)} names, but the network has "
            f"{num_classes} classes; change them with dataclasses.replace"
        )
    if len(given.mean) != channels:
        raise errors.UserError(
            f"preprocessing.mean has {len(given.mean)} values, but the network's images have "
            f"{channels} channels; change mean and std with dataclasses.replace"
        )
