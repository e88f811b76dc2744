"""Grad-CAM: the parts of an image that raise the logit of a class, on the grid of a stage.

Selvaraju et al. 2016, 'Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization' (arXiv:1610.02391), eqs. 1 and 2. The maps are scaled as in pytorch-grad-cam.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Variables
from cnn_jax.inspect import targets as target_functions
from cnn_jax.inspect import values
from cnn_jax.inspect.targets import Target
from cnn_jax.predictor import Predictor

_TINY = 1e-7  # pytorch-grad-cam adds it to the largest value before it divides.


class GradCam(NamedTuple):
    """Grad-CAM of N images.

    Attributes:
      maps: `[N, H, W]`, in [0, 1], of the size of the network's inputs.
      raw: `[N, h, w]`, at least 0, on the grid of the stage and without scaling.
      targets: `[N]` int32, the class of each map.
      stage: the name of the stage.
    """

    maps: np.ndarray
    raw: np.ndarray
    targets: np.ndarray
    stage: str


def grad_cam(
    network: Predictor,
    inputs: np.ndarray,
    target: Target | Sequence[Target] = None,
    stage: str | None = None,
) -> GradCam:
    """Returns Grad-CAM: the mean gradient of each channel times the channel, summed, at least 0.

    Args:
      network: of a run or of published weights.
      inputs: `[N, H, W, C]`, as `network.preprocess` returns them.
      target: a class for all images or one for each; by default the one with the highest logit.
      stage: an endpoint with height and width, or the path of a module that returns feature maps
        or tokens; by default `default_stage`. A class token is left out.

    Raises:
      UserError: there is no such class or stage, the stage has no height and width, or its gradient
        is zero in all images.
    """
    model = values.module(network)
    given = target_functions.indices(network.class_names, len(inputs), target)
    if stage is None:
        stage = default_stage(network, inputs[:1])
    shape = (1, *inputs.shape[1:])
    size = values.size_of(values.trace_predictor(network, inputs[:1]), shape, stage)

    def compute(
        variables: Variables, images: jax.Array, given: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits, found = values.gradients(
            model, variables, images, [stage], lambda logits: _chosen(logits, given)
        )
        maps, slopes = (values.as_maps(array, size) for array in found[stage])
        weights = slopes.mean((1, 2), keepdims=True)
        raw = jax.nn.relu((weights * maps).sum(-1))
        return raw, target_functions.chosen(given, logits), jnp.any(slopes != 0)

    compiled = jax.jit(compute)
    rows = [
        compiled(network.variables, inputs[at : at + 1], given[at : at + 1])
        for at in range(len(inputs))
    ]
    if not any(alive for *_, alive in rows):
        raise errors.UserError(
            f"the logit does not depend on the feature maps of the stage {stage!r}, such as those "
            "of patches after the last attention layer; choose an earlier one, such as "
            f"{default_stage(network, inputs[:1])!r}"
        )
    raw, classes = (np.concatenate([np.asarray(row[at]) for row in rows]) for at in range(2))
    return GradCam(scaled(raw, inputs.shape[1:3]), raw, classes, stage)


def _chosen(logits: jax.Array, given: jax.Array) -> jax.Array:
    """Returns the sum of one logit of each image."""
    classes = target_functions.chosen(given, logits)
    return jnp.take_along_axis(logits, classes[:, None], 1).sum()


def default_stage(network: Predictor, inputs: np.ndarray) -> str:
    """Returns the last stage of feature maps that the logits depend on.

    It is the last endpoint with height and width. In a network with a class token, the logits do
    not depend on the patches after the last block. The stage is then the last module with as many
    channels as the endpoint whose patches they depend on: the normalisation before the attention of
    the last block, which the authors of pytorch-grad-cam recommend too.

    Args:
      network: the network.
      inputs: `[1, H, W, C]`; the gradients of the candidates are computed for it.

    Raises:
      UserError: there is no such stage.
    """
    model, shape = values.module(network), (1, *inputs.shape[1:])
    traced = values.trace_predictor(network, inputs[:1])
    sizes = values.map_sizes(traced, shape)
    endpoints = [name for name in traced.endpoints if sizes.get(name, (1, 1)) != (1, 1)]
    if not endpoints:
        raise errors.UserError(
            "the network records no endpoint with height and width; name a module that returns "
            f"feature maps: {errors.listed([name for name in traced.modules if name in sizes], 20)}"
        )
    last = endpoints[-1]
    channels = traced.endpoints[last].aval.shape[-1]
    others = [
        name
        for name, variable in traced.modules.items()
        if sizes.get(name) == sizes[last] and variable.aval.shape[-1] == channels
    ]

    def alive(names: list[str]) -> list[str]:
        """Returns the names of the stages with a gradient."""
        reached = [name for name in names if values.is_reached(traced, name)]
        if not reached:
            return []

        def compute(variables: Variables, images: jax.Array) -> list[jax.Array]:
            _, found = values.gradients(model, variables, images, reached, lambda x: x.max())
            return [jnp.any(values.as_maps(found[one][1], sizes[one]) != 0) for one in reached]

        flags = jax.jit(compute)(network.variables, inputs[:1])
        return [name for name, flag in zip(reached, flags, strict=True) if flag]

    found = alive([last]) or alive(list(reversed(others)))
    if not found:
        raise errors.UserError(
            "the gradient of the highest logit is zero at the last feature maps of the network; "
            "name a stage"
        )
    return found[0]


def scaled(raw: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Returns maps in [0, 1] with height and width `size`, bilinear, as pytorch-grad-cam does.

    Args:
      raw: `[N, h, w]`.
      size: height and width.
    """
    large = jax.image.resize(_unit(raw), (len(raw), *size), "linear", antialias=False)
    return _unit(np.asarray(large))


def _unit(maps: np.ndarray) -> np.ndarray:
    """Returns each map with the smallest value at 0 and the largest at 1."""
    lifted = maps - maps.min((1, 2), keepdims=True)
    return lifted / (_TINY + lifted.max((1, 2), keepdims=True))
