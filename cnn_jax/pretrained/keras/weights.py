"""Weights of Keras' applications as variables of our networks.

    weights = {weight.path: np.asarray(weight) for weight in application.weights}
    variables = from_keras("xception", weights)
    model = models.create("xception", num_classes=1000, **KERAS["xception"])

Keras is not needed here. What applications do to images before the first convolution is no part of
our networks: MobileNetV3 rescales them to [-1, 1], EfficientNet to [0, 1] and normalises them.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.families.names import Names
from cnn_jax.pretrained.keras.applications import APPLICATIONS, Application

# For each network, the fields with which it computes what Keras' application does.
KERAS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: application.overrides for name, application in APPLICATIONS.items()}
)

# What Keras calls our leaves; others keep their names.
_LEAVES = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}
# What it calls the layers of our units, with a number, where its author gave them no names.
_KINDS = {"conv": "conv2d", "bn": "batch_normalization"}
_NUMBERED = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?/(.*)")
_IGNORED = re.compile(r"normalization(_\d+)?/")  # of images


def from_keras(
    name: str,
    weights: Mapping[str, np.ndarray],
    *,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """The variables of network `name` from the weights of Keras' application.

    Args:
      name: one of `KERAS`.
      weights: path to array, of an application with its top.
      num_classes: of the application.
      input_shape: height, width and channels of its images, on which VGG's weights depend; those
        for which the network was published if not given.
      **overrides: further fields of the network that differ from the variant's; those of `KERAS`
        are set.

    Returns:
      `{"params": ...}`, with `"batch_stats"` where the network has them; arrays of NumPy, float64
      where the weights are, else float32.

    Raises:
      ValueError: an unknown network, or weights that are missing, unexpected or misshapen: all of
        them in one message.
    """
    models.options(name)  # Raises for an unknown network.
    if name not in APPLICATIONS:
        raise errors.unknown("network with an application in Keras", name, sorted(APPLICATIONS))
    application = APPLICATIONS[name]
    fields = {"num_classes": num_classes, **application.overrides, **overrides}
    ours = convert.shapes(name, input_shape or models.input_shape(name), **fields)
    keys = _keys(application, ours)
    given = _numbered_from_zero({k: v for k, v in weights.items() if not _IGNORED.match(k)})
    expected = {key: _shape(application.names, path, ours[path]) for path, key in keys.items()}
    convert.check(name, expected, given)
    flat = {path: np.ones(shape, np.float32) for path, shape in ours.items()}
    for path, key in keys.items():
        flat[path] = convert.floats(given[key]).reshape(ours[path])
    return traverse_util.unflatten_dict(flat)


def _keys(application: Application, paths: Iterable[convert.Path]) -> dict[convert.Path, str]:
    """Under which key each variable's weights are; scales that Keras does not have are left out.

    Args:
      application: of Keras.
      paths: of the variables, in the order in which `init` makes them.
    """
    keys: dict[convert.Path, str] = {}
    units: dict[str, int] = {}
    normalised = set()
    for path in paths:
        *modules, leaf = path[1:]
        if leaf == "scale":
            normalised.add(tuple(modules))
            if not application.scaled:
                continue
        elif leaf == "bias" and tuple(modules) in normalised:
            leaf = "beta"
        layer = application.names.module(modules)
        unit, dot, kind = layer.rpartition(".")
        if dot:
            layer = _numbered(_KINDS[kind], units.setdefault(unit, len(units)))
        # A layer of two kernels is written as 'layer/depthwise'.
        keys[path] = f"{layer}{'_' if '/' in layer else '/'}{_LEAVES.get(leaf, leaf)}"
    return keys


def _shape(names: Names, path: convert.Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """That of the variable in Keras."""
    if len(shape) == 4 and shape[2] == 1:  # a depthwise convolution
        return (*shape[:2], shape[3], 1)
    size = names.convolved.get(".".join(path[1:-1])) if path[-1] == "kernel" else None
    return shape if size is None else (size, size, shape[0] // size**2, shape[1])


def _numbered(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind


def _numbered_from_zero(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with layers numbered from 0: Keras counts on from the model before."""
    matches = [match for key in weights if (match := _NUMBERED.fullmatch(key))]
    found = {
        kind: sorted({_number(m) for m in matches if m[1] == kind}) for kind in _KINDS.values()
    }
    keys = {m[0]: f"{_numbered(m[1], found[m[1]].index(_number(m)))}/{m[3]}" for m in matches}
    return {keys.get(key, key): array for key, array in weights.items()}


def _number(match: re.Match[str]) -> int:
    return int(match[2] or 0)
