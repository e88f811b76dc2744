"""Attributions to pixels: integrated gradients and occlusion.

Sundararajan et al. 2017, 'Axiomatic Attribution for Deep Networks' (arXiv:1703.01365), eqs. 1 and
3. Zeiler & Fergus 2013, 'Visualizing and Understanding Convolutional Networks' (arXiv:1311.2901),
section 4.2. Both only call the network, so they take any network.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Variables
from cnn_jax.inspect import targets as target_functions
from cnn_jax.inspect.targets import Target
from cnn_jax.predictor import Predictor


class Integrated(NamedTuple):
    """Integrated gradients of N images.

    Attributes:
      values: `[N, H, W, C]`, the share of each input value in the difference of the logits.
      targets: `[N]` int32, the class of each image.
      differences: `[N]`, the logit of the image minus that of the baseline.
      errors: `[N]`, the sum of `values` minus `differences`; 0 up to the error of the integral.
    """

    values: np.ndarray
    targets: np.ndarray
    differences: np.ndarray
    errors: np.ndarray


def integrated_gradients(
    network: Predictor,
    inputs: np.ndarray,
    target: Target | Sequence[Target] = None,
    *,
    baseline: np.ndarray | float = 0.0,
    steps: int = 50,
) -> Integrated:
    """Returns the integral of the gradient along the line from a baseline, times the difference.

    The integral is computed by Gauss-Legendre quadrature, as in Captum.

    Args:
      network: of a run or of published weights.
      inputs: `[N, H, W, C]`, as `network.preprocess` returns them.
      target: a class for all images or one for each; by default the one with the highest logit.
      baseline: an input without information, which broadcasts to `[H, W, C]`. By default 0, the
        mean colour of the training images.
      steps: the number of points of the quadrature.

    Raises:
      UserError: there is no such class, or `steps` is less than 1.
    """
    if steps < 1:
        raise errors.UserError(f"steps must be at least 1, got {steps}")
    given = target_functions.indices(network.class_names, len(inputs), target)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    shares, weights = (nodes + 1) / 2, weights / 2
    base = np.broadcast_to(np.asarray(baseline, inputs.dtype), inputs.shape[1:])

    def logits(variables: Variables, images: jax.Array) -> jax.Array:
        return network.predict(variables, {"image": images})["logits"]

    @jax.jit
    def part(
        variables: Variables, image: jax.Array, index: jax.Array, shares: jax.Array, w: jax.Array
    ) -> jax.Array:
        points = base + shares[:, None, None, None] * (image - base)
        slopes = jax.grad(lambda x: logits(variables, x)[:, index].sum())(points)
        return (w[:, None, None, None] * slopes).sum(0) * (image - base)

    compiled = jax.jit(logits)
    ends = [np.asarray(compiled(network.variables, np.stack([base, one]))) for one in inputs]
    classes = np.array(
        [target_functions.chosen(one, end[1]) for one, end in zip(given, ends, strict=True)]
    )
    parts = _parts(shares, weights, min(network.batch_size, steps), inputs.dtype)
    found = np.stack(
        [
            sum(
                np.asarray(part(network.variables, image, index, *points), np.float64)
                for points in parts
            )
            for image, index in zip(inputs, classes, strict=True)
        ]
    )
    differences = np.array(
        [float(end[1, at]) - float(end[0, at]) for end, at in zip(ends, classes, strict=True)]
    )
    return Integrated(found, classes, differences, found.sum((1, 2, 3)) - differences)


def _parts(
    shares: np.ndarray, weights: np.ndarray, size: int, dtype: np.dtype
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the points of a quadrature and their weights in batches; the last one is padded.

    Points of weight 0 pad it.
    """
    padding = -len(shares) % size
    split = [np.pad(one, (0, padding)).reshape(-1, size).astype(dtype) for one in (shares, weights)]
    return list(zip(*split, strict=True))


class Occlusion(NamedTuple):
    """Occlusion of N images.

    Attributes:
      drops: `[N, rows, columns]`, the logit of the image minus that with the window occluded.
      maps: `[N, H, W]`, the mean drop over the windows that cover a pixel; 0 where none does.
      targets: `[N]` int32, the class of each image.
    """

    drops: np.ndarray
    maps: np.ndarray
    targets: np.ndarray


def occlusion(
    network: Predictor,
    inputs: np.ndarray,
    target: Target | Sequence[Target] = None,
    *,
    window: int,
    stride: int,
    fill: float = 0.0,
) -> Occlusion:
    """Returns how much the logit of a class drops where a square of the image is occluded.

    Args:
      network: of a run or of published weights.
      inputs: `[N, H, W, C]`, as `network.preprocess` returns them.
      target: a class for all images or one for each; by default the one with the highest logit.
      window: height and width of the square, in pixels of the input.
      stride: the distance between neighbouring squares. The last ones end at the border.
      fill: the value in the square; 0 is the mean colour of the training images.

    Raises:
      UserError: there is no such class, or a window or stride is not allowed.
    """
    height, width = inputs.shape[1:3]
    if not 1 <= window <= min(height, width):
        raise errors.UserError(
            f"window must be from 1 to {min(height, width)}, the size of the inputs, got {window}"
        )
    if not 1 <= stride <= window:
        raise errors.UserError(f"stride must be from 1 to the window, {window}, got {stride}")
    given = target_functions.indices(network.class_names, len(inputs), target)
    rows, columns = (_starts(side, window, stride) for side in (height, width))
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    compiled = jax.jit(functools.partial(_occluded_logits, network, window=window, fill=fill))
    found = [
        _drops(network, compiled, image, one, corners)
        for image, one in zip(inputs, given, strict=True)
    ]
    drops = np.stack([one for one, _ in found])
    maps = np.stack([_spread(one, corners, window, (height, width)) for one in drops])
    classes = np.array([index for _, index in found], np.int32)
    return Occlusion(drops.reshape(-1, len(rows), len(columns)), maps, classes)


def _starts(side: int, window: int, stride: int) -> np.ndarray:
    """Returns the first pixel of each window along an axis; the last window ends at the border."""
    starts = np.arange(0, side - window + 1, stride)
    return starts if starts[-1] == side - window else np.append(starts, side - window)


def _occluded_logits(
    network: Predictor,
    variables: Variables,
    image: jax.Array,
    corners: jax.Array,
    *,
    window: int,
    fill: float,
) -> jax.Array:
    """Returns the logits `[B, K]` of an image with each of B squares filled."""
    rows, columns = (jnp.arange(side) for side in image.shape[:2])
    inside_rows = (rows >= corners[:, :1]) & (rows < corners[:, :1] + window)
    inside_columns = (columns >= corners[:, 1:]) & (columns < corners[:, 1:] + window)
    inside = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
    return network.predict(variables, {"image": jnp.where(inside, fill, image)})["logits"]


def _drops(
    network: Predictor,
    logits: jax.stages.Wrapped,
    image: np.ndarray,
    given: np.ndarray,
    corners: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Returns the drop of a logit for each corner of a window, and the class."""
    size = network.batch_size
    # A corner beyond the image occludes nothing.
    every = np.concatenate([[image.shape[:2]], corners])
    padded = np.pad(every, ((0, -len(every) % size), (0, 0)), mode="edge")
    found = np.concatenate(
        [
            np.asarray(logits(network.variables, image, padded[at : at + size]))
            for at in range(0, len(padded), size)
        ]
    )
    index = int(target_functions.chosen(given, found[0]))
    return found[0, index] - found[1 : len(every), index], index


def _spread(
    drops: np.ndarray, corners: np.ndarray, window: int, size: tuple[int, int]
) -> np.ndarray:
    """Returns the mean drop over the windows that cover each pixel."""
    total, count = np.zeros(size), np.zeros(size)
    for drop, (row, column) in zip(drops, corners, strict=True):
        place = np.s_[row : row + window, column : column + window]
        total[place] += drop
        count[place] += 1
    return total / np.maximum(count, 1)
