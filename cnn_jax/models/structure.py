"""Structure of a network: its endpoints and the place of its head, found by tracing.

All functions take any Linen module with the contract of `models.create`, so that they also serve
networks of users. A network records endpoints with `layers.feature`, or with
`self.sow("features", name, x)`.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors as flax_errors
from flax import linen as nn
from flax import traverse_util

from cnn_jax import errors

_Path = tuple[str, ...]

# `endpoints` compares images of these heights, in multiples of the given height. The difference of
# 32 heights makes the rounding of feature maps without padding negligible.
_HEIGHTS = (1, 33)


class Endpoint(NamedTuple):
    """Endpoint of a network.

    Attributes:
      channels: size of the last axis.
      stride: pixels of the image for each pixel of the feature map, along one axis. 0 if the
        endpoint has no height and width.
    """

    channels: int
    stride: int


def features(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    train: bool = False,
    rngs: Any = None,
) -> dict[str, jax.Array]:
    """Returns the endpoints of a network: the output of each stage.

    Endpoints serve transfer learning, detection and plots.

    Args:
      model: a network from `create`, or another one that records endpoints.
      variables: the parameters and running statistics of `model`.
      images: `[B, H, W, C]`.
      train: True for training mode: dropout is active, and batch normalisation uses the moments of
        `images`. The updated running statistics are discarded.
      rngs: the PRNG key of dropout and stochastic depth in training mode, or a mapping such as
        `{"dropout": key}`.

    Returns:
      Feature maps `[B, H', W', C']`, keyed by the name of the stage. Endpoints after the spatial
      axes are flattened have the shape `[B, C']`.

    Raises:
      UserError: training mode needs a PRNG key.

    >>> from cnn_jax import models
    >>> model = models.create("resnet20", num_classes=10)
    >>> images = jnp.zeros((1, 32, 32, 3))
    >>> stages = jax.eval_shape(
    ...     lambda: features(model, model.init(jax.random.key(0), images, train=False), images)
    ... )
    >>> {name: stage.shape for name, stage in stages.items()}["stage3"]
    (1, 8, 8, 64)
    """
    # `init` of a network with `sow` returns endpoints too, to which `apply` would add its own.
    given = {name: tree for name, tree in variables.items() if name != "features"}
    mutable = ["features", *(["batch_stats", "aux_logits"] if train else [])]
    try:
        _, found = model.apply(given, images, train=train, rngs=rngs, mutable=mutable)
    except flax_errors.InvalidRngError as error:
        raise errors.UserError(
            "features in training mode needs a PRNG key for dropout; "
            f'pass rngs={{"dropout": jax.random.key(0)}} ({error})'
        ) from error
    return dict(_recorded(found.get("features", {})))


def _recorded(tree: Mapping[str, Any]) -> Iterator[tuple[str, jax.Array]]:
    """Yields name and value of each endpoint. `sow` stores a tuple with one value for each call."""
    for name, value in traverse_util.flatten_dict(tree, sep="/").items():
        if not isinstance(value, tuple):
            yield name, value
        elif len(value) == 1:
            yield name, value[0]
        else:
            yield from ((f"{name}/{index}", entry) for index, entry in enumerate(value))


def endpoints(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, Endpoint]:
    """Returns channels and stride of each endpoint, in the order of execution.

    The network is traced for images of two heights; no array is allocated. The stride is the
    difference of the heights divided by the difference of the feature maps' heights. It is rounded,
    since feature maps without padding are not exact fractions of the image.

    Args:
      model: a network that records endpoints.
      input_shape: height, width and channels of the images.

    >>> from cnn_jax import models
    >>> endpoints(models.create("resnet20", num_classes=10), (32, 32, 3))["stage3"]
    Endpoint(channels=64, stride=4)
    """
    height, *rest = input_shape
    small, large = (_endpoint_shapes(model, (factor * height, *rest)) for factor in _HEIGHTS)
    added = height * (_HEIGHTS[1] - _HEIGHTS[0])
    return {
        name: Endpoint(shape[-1], _stride(shape, large[name], added))
        for name, shape in small.items()
    }


def _endpoint_shapes(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all endpoints, in the order of execution."""
    order: list[str] = []

    def record(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        found = features(model, variables, images)
        order.extend(found)  # `eval_shape` sorts dictionaries.
        return found

    shapes = jax.eval_shape(record, variables_of(model, input_shape), _images(input_shape))
    return {name: shapes[name].shape for name in order}


def _stride(small: tuple[int, ...], large: tuple[int, ...], added: int) -> int:
    """Returns the stride of an endpoint from its shapes before and after `added` pixels."""
    rows = large[1] - small[1] if len(small) == 4 else 0
    return round(added / rows) if rows else 0


def head(model: nn.Module, input_shape: tuple[int, int, int]) -> str:
    """Returns the path of the head's parameters in the tree, joined by '/'.

    The head is the module that holds the parameters whose shapes depend on `num_classes`, such as
    'fc' or 'head_fc'. Auxiliary heads, which evaluation does not use, are not part of it. The
    network is traced; no array is allocated.

    Args:
      model: a network with the field `num_classes`.
      input_shape: height, width and channels of the images.

    Raises:
      UserError: the network has no field `num_classes`, no head with parameters, or several heads.

    >>> from cnn_jax import models
    >>> head(models.create("resnet20", num_classes=10), (32, 32, 3))
    'fc'
    """
    name = type(model).__name__
    if "num_classes" not in {field.name for field in dataclasses.fields(model)}:
        raise errors.UserError(
            f"the head of {name} is unknown, because it has no field num_classes; add the field or "
            "give the paths of the parameters instead of 'head'"
        )
    model, other = model.clone(num_classes=1), model.clone(num_classes=2)
    variables = variables_of(model, input_shape)
    one, two = _flat(variables), _flat(variables_of(other, input_shape))
    calls = called(model, variables, input_shape)
    paths = {path[:-1] for path in one if one[path] != two.get(path) and path[:-1] in calls}
    if not paths:
        raise errors.UserError(
            f"{name} has no head: the shape of no parameter depends on num_classes; "
            "give the paths of the parameters instead of 'head'"
        )
    common = _common(paths)
    if not common:
        raise errors.UserError(
            f"the head of {name} is not one module: the shapes of parameters in "
            f"{', '.join(sorted('/'.join(path) or 'the network itself' for path in paths))} depend "
            "on num_classes; give the paths of the parameters instead of 'head'"
        )
    return "/".join(common)


def _images(input_shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a batch with one image."""
    return jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)


def variables_of(model: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """Returns the shapes and dtypes of a network's variables."""

    def init(images: jax.Array) -> Any:
        return model.init(jax.random.key(0), images, train=False)

    return jax.eval_shape(init, _images(input_shape))


def _flat(variables: Mapping[str, Any]) -> dict[_Path, tuple[int, ...]]:
    """Returns the shapes of all parameters by path."""
    leaves = traverse_util.flatten_dict(variables.get("params", {}))
    return {path: leaf.shape for path, leaf in leaves.items()}


def called(model: nn.Module, variables: Any, input_shape: tuple[int, ...]) -> dict[_Path, str]:
    """Returns the submodules that a forward pass in evaluation mode calls, in the order of calls.

    Returns:
      The name of the class of each module by its path.
    """
    paths: dict[_Path, str] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        paths.setdefault(context.module.path, type(context.module).__qualname__)
        return call(*args, **kwargs)

    def apply(given: Any, images: jax.Array) -> Any:
        return model.apply(given, images, train=False)

    with nn.intercept_methods(record):
        jax.eval_shape(apply, variables, _images(input_shape))
    return paths


def _common(paths: set[_Path]) -> _Path:
    """Returns the longest path that all `paths` begin with."""
    first, last = min(paths), max(paths)
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return tuple(name for name, _ in pairs)
