"""Conversion of the weights of `keras.applications` to variables of these networks.

    weights = {weight.path: np.asarray(weight) for weight in application.weights}
    variables = from_keras("xception", weights)
    model = models.create("xception", num_classes=1000, **KERAS["xception"])

This module does not import Keras. The variables are for RGB images with the mean and standard
deviation of `keras_preprocessing(name)`. Two things differ from Keras:

- VGG and ResNet take BGR images there. Their first kernels are turned to RGB.
- MobileNetV3 and EfficientNet normalise images in their first layers, which are left out here.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.pretrained import convert, fit, layout
from cnn_jax.pretrained.families.names import Names
from cnn_jax.pretrained.keras.applications import APPLICATIONS, Application
from cnn_jax.pretrained.network import Network, Path, Shape

# For each network, the fields with which it computes the same as Keras' application.
KERAS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: application.overrides for name, application in APPLICATIONS.items()}
)

# Names of our leaves in Keras. Other leaves have the same name.
_LEAVES = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}
# Keras' default layer names, without their number, by our names in a unit of both layers.
_DEFAULT_NAMES = {"conv": "conv2d", "bn": "batch_normalization"}
_NUMBERED = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?/(.*)")
_IGNORED = re.compile(r"normalization(_\d+)?/")  # the layer that normalises images


def from_keras(
    name: str,
    weights: Mapping[str, np.ndarray],
    *,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Converts the weights of Keras' application to variables of network `name`.

    The variables are for images with the preprocessing of `keras_preprocessing(name)`, in RGB.

    Args:
      name: a network in `KERAS`.
      weights: path to array, of an application that was built with its top.
      num_classes: of the application.
      input_shape: `(height, width, channels)` of the application's images, on which the shapes of
        VGG's weights depend. By default the shape for which the network was published.
      **overrides: fields of the network that differ from the variant's, in addition to those in
        `KERAS[name]`.

    Returns:
      `{"params": ...}`, with `"batch_stats"` if the network has running statistics. The leaves are
      NumPy arrays in C order that own their data: float64 where the weights are float64, else
      float32.

    Raises:
      UserError: the network is unknown, or weights are missing, unexpected or of the wrong shape.
        The message has their number and examples. Also if an entry has another dtype than floating
        point, or a value that is not finite in float32.
    """
    network = _network(name, input_shape, overrides)
    shapes = network.shapes(num_classes)
    given = _number_from_zero({k: v for k, v in weights.items() if not _IGNORED.match(k)})
    expected = entries(network, num_classes)
    fit.check(name, dict(expected.values()), given)
    # Only scales that Keras does not have keep the value 1.
    flat = {path: np.ones(shape, np.float32) for path, shape in shapes.items()}
    for path, (key, _) in expected.items():
        flat[path] = layout.owned(convert.floats(key, given[key]).reshape(shapes[path]))
    first = next(path for path in expected if path[-1] == "kernel")
    if APPLICATIONS[name].mode == "caffe" and shapes[first][2] == 3:
        flat[first] = layout.owned(flat[first][:, :, ::-1])  # BGR to RGB
    return traverse_util.unflatten_dict(flat)


def _network(
    name: str, input_shape: tuple[int, int, int] | None, overrides: Mapping[str, Any]
) -> Network:
    """Returns the network that computes the same as Keras' application.

    Raises:
      UserError: the network is unknown or Keras has no such application.
    """
    models.options(name)  # Raises for an unknown network.
    if name not in APPLICATIONS:
        raise errors.unknown("network with an application in Keras", name, sorted(APPLICATIONS))
    return Network.of(name, input_shape, {**KERAS[name], **overrides})


def entries(network: Network, num_classes: int) -> dict[Path, tuple[str, Shape]]:
    """Returns the key and the shape in Keras' weights of each variable that Keras has, by path."""
    application, shapes = APPLICATIONS[network.name], network.shapes(num_classes)
    return {
        path: (key, _keras_shape(application.names, path, shapes[path]))
        for path, key in _keys(application, shapes).items()
    }


def _keys(application: Application, paths: Iterable[Path]) -> dict[Path, str]:
    """Returns the key of each variable in Keras' weights, without scales that Keras does not have.

    Args:
      application: the entry in `APPLICATIONS`.
      paths: paths of the variables, in `init`'s order of creation. This order gives the numbers of
        layers that have no name in Keras.
    """
    keys: dict[Path, str] = {}
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
            layer = _numbered(_DEFAULT_NAMES[kind], units.setdefault(unit, len(units)))
        # A separable convolution has two kernels, 'layer/depthwise_kernel' and
        # 'layer/pointwise_kernel'; the rename table gives 'layer/depthwise'.
        keys[path] = f"{layer}{'_' if '/' in layer else '/'}{_LEAVES.get(leaf, leaf)}"
    return keys


def _keras_shape(names: Names, path: Path, shape: Shape) -> Shape:
    """Returns the shape in Keras of the variable at `path`, whose shape is `shape`."""
    if len(shape) == 4 and shape[2] == 1:  # Depthwise: Flax [kh, kw, 1, C], Keras [kh, kw, C, 1].
        return (*shape[:2], shape[3], 1)
    size = names.convolved.get(".".join(path[1:-1])) if path[-1] == "kernel" else None
    return shape if size is None else (size, size, shape[0] // size**2, shape[1])


def _numbered(kind: str, number: int) -> str:
    """Returns Keras' default name of a layer: 'conv2d', 'conv2d_1', ..."""
    return f"{kind}_{number}" if number else kind


def _number_from_zero(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renumbers the layers with default names from 0, separately for each kind of layer.

    Keras numbers such layers over all models of a program: the second model's first convolution is
    'conv2d_94', which becomes 'conv2d'. The next is 'conv2d_1'.
    """
    matches = [match for key in weights if (match := _NUMBERED.fullmatch(key))]
    found = {
        kind: sorted({_number(m) for m in matches if m[1] == kind})
        for kind in _DEFAULT_NAMES.values()
    }
    keys = {m[0]: f"{_numbered(m[1], found[m[1]].index(_number(m)))}/{m[3]}" for m in matches}
    return {keys.get(key, key): array for key, array in weights.items()}


def _number(match: re.Match[str]) -> int:
    """Returns the number in a match of `_NUMBERED`; a name without number has number 0."""
    return int(match[2] or 0)
