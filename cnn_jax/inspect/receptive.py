"""Effective receptive field: the pixels that the centre of a feature map depends on.

Luo et al. 2016, 'Understanding the Effective Receptive Field in Deep Convolutional Neural Networks'
(arXiv:1701.04128), section 2: the gradient of the centre unit with respect to the image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Variables
from cnn_jax.inspect import values
from cnn_jax.predictor import Predictor

_WITHIN = 1 - 0.9545  # of the largest value; two standard deviations, as in section 4 of the paper


class ReceptiveField(NamedTuple):
    """The receptive field of the centre of a feature map.

    Attributes:
      map: `[H, W]`, the mean absolute gradient at each pixel, with the largest value at 1.
      size: the root of the number of pixels above 4.55 % of the largest value, in pixels.
      extent: height and width of the box of all pixels with a gradient, in pixels.
      stage: the name of the stage.
    """

    map: np.ndarray
    size: float
    extent: tuple[int, int]
    stage: str


def receptive_field(network: Predictor, inputs: np.ndarray, stage: str) -> ReceptiveField:
    """Returns the effective receptive field of the centre of a feature map.

    The score is the sum of all channels at the centre. Its absolute gradient is added over the
    channels of the image and averaged over the images.

    Args:
      network: of a run or of published weights.
      inputs: `[N, H, W, C]`, as `network.preprocess` returns them, or noise.
      stage: an endpoint with height and width, or the path of a module that returns feature maps
        or tokens.

    Raises:
      UserError: there is no such stage, it has no height and width, or does not depend on the
        image.
    """
    shape = (1, *inputs.shape[1:])
    size = values.size_of(values.trace_predictor(network, inputs[:1]), shape, stage)

    @jax.jit
    def compute(variables: Variables, image: jax.Array) -> jax.Array:
        def centre(image: jax.Array) -> jax.Array:
            traced, computed = values.forward(values.module(network), variables, image)
            maps = values.as_maps(computed[traced.variable(stage)], size)
            return maps[:, size[0] // 2, size[1] // 2].sum()

        return jnp.abs(jax.grad(centre)(image)).sum((0, -1))

    fields = [compute(network.variables, inputs[at : at + 1]) for at in range(len(inputs))]
    total = np.sum(np.asarray(fields, np.float64), 0)
    largest = total.max()
    if not largest > 0:
        raise errors.UserError(
            f"the centre of the stage {stage!r} does not depend on the image; its units may be "
            "dead, so choose another stage or other images"
        )
    field = total / largest
    rows, columns = (np.flatnonzero(field.any(axis)) for axis in (1, 0))
    extent = tuple(int(one[-1] - one[0]) + 1 for one in (rows, columns))
    return ReceptiveField(
        field, float(np.sqrt((field > _WITHIN).sum())), (extent[0], extent[1]), stage
    )
