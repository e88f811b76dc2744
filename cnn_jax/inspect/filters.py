"""Kernels of the first layer, and feature maps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax import errors
from cnn_jax.contracts import Variables
from cnn_jax.inspect import values
from cnn_jax.predictor import Predictor


def first_layer(network: Predictor) -> tuple[str, np.ndarray]:
    """Returns the path of the first layer with a kernel, and its kernels.

    Args:
      network: of a run or of published weights.

    Returns:
      The path, joined by '/', and the kernels `[D, h, w, C]`, one for each channel or unit of the
      layer. Those of a dense layer on all pixels have the shape of the image.

    Raises:
      UserError: the network has no convolution or dense layer that reads the image.
    """
    params = network.variables["params"]
    for path in _called(network):
        node: Any = params
        for part in path:
            node = node.get(part, {}) if hasattr(node, "get") else {}
        kernel = node.get("kernel") if hasattr(node, "get") else None
        if kernel is None:
            continue
        kernel = np.asarray(kernel)
        if kernel.ndim == 2 and len(kernel) == np.prod(network.input_shape):
            kernel = kernel.reshape(*network.input_shape, -1)
        if kernel.ndim == 4:
            return "/".join(path), np.moveaxis(kernel, -1, 0)
        break
    raise errors.UserError(
        "the network's first layer is no convolution and no dense layer on the pixels, so its "
        "kernels are no images"
    )


def _called(network: Predictor) -> list[tuple[str, ...]]:
    """Returns the paths of the modules in the order of their calls."""
    paths: list[tuple[str, ...]] = []

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__":
            paths.append(context.module.path)
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(
            lambda variables, images: values.module(network).apply(variables, images, train=False),
            dict(network.variables),
            images,
        )
    return paths


def feature_maps(network: Predictor, inputs: np.ndarray, stage: str) -> np.ndarray:
    """Returns the feature maps `[N, h, w, D]` of a stage.

    Args:
      network: of a run or of published weights.
      inputs: `[N, H, W, C]`, as `network.preprocess` returns them; computed as one batch.
      stage: an endpoint with height and width, or the path of a module that returns feature maps
        or tokens; a class token is left out.

    Raises:
      UserError: there is no such stage, or it has no height and width.
    """
    size = values.size_of(values.trace_predictor(network, inputs), inputs.shape, stage)

    @jax.jit
    def compute(variables: Variables, images: jax.Array) -> jax.Array:
        traced, computed = values.forward(values.module(network), variables, images)
        return values.as_maps(computed[traced.variable(stage)], size).astype(jnp.float32)

    return np.asarray(compute(network.variables, inputs))


def strongest(maps: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the channels `[count]` with the largest mean absolute value.

    Args:
      maps: `[h, w, D]`.
      count: the number of channels; all if it is larger.
    """
    strength = np.abs(maps).mean((0, 1))
    return np.argsort(-strength, kind="stable")[:count]
