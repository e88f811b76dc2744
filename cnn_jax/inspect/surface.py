"""Loss surface along two filter-normalised directions.

Li et al. 2018, 'Visualizing the Loss Landscape of Neural Nets' (arXiv:1712.09913), sections 3 and
4: each filter of a random direction is scaled to the norm of the network's filter; biases and the
parameters of normalisation stay.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Tree
from cnn_jax.inspect import targets
from cnn_jax.predictor import Predictor


class Surface(NamedTuple):
    """Losses on a grid around the parameters.

    Attributes:
      losses: `[n, n]`; the first axis is the first direction.
      steps: `[n]`, the multiples of each direction, from `-radius` to `radius`.
    """

    losses: np.ndarray
    steps: np.ndarray


def direction(params: Tree, key: jax.Array) -> Tree:
    """Returns a random direction, normalised by filter.

    A filter is the part of a kernel that computes one output: its last axis. Arrays of one axis,
    biases and scales of normalisation, get a direction of 0.

    Args:
      params: the parameters.
      key: a PRNG key.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    parts = [_normalised(leaf, one) for leaf, one in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, parts)


def _normalised(leaf: jax.Array, key: jax.Array) -> jax.Array:
    if leaf.ndim < 2:
        return jnp.zeros_like(leaf)
    noise = jax.random.normal(key, leaf.shape, leaf.dtype)
    axes = tuple(range(leaf.ndim - 1))
    norms = [jnp.sqrt(jnp.square(one).sum(axes, keepdims=True)) for one in (leaf, noise)]
    return noise * norms[0] / jnp.maximum(norms[1], jnp.finfo(leaf.dtype).tiny)


def grid(
    loss: Callable[[Tree], jax.Array],
    params: Tree,
    directions: tuple[Tree, Tree],
    *,
    radius: float = 1.0,
    points: int = 21,
) -> Surface:
    """Returns the losses at `params + a directions[0] + b directions[1]`.

    Args:
      loss: a function of the parameters, traceable.
      params: the parameters in the centre.
      directions: two directions.
      radius: the largest `a` and `b`; 1 moves each filter by its own norm.
      points: the number of points along each direction; an odd number has one at the centre.

    Raises:
      UserError: `points` is less than 2, or `radius` is not positive.
    """
    if points < 2 or not radius > 0:
        raise errors.UserError(
            f"points must be at least 2 and radius above 0, got {points} and {radius}"
        )

    @jax.jit
    def at(a: jax.Array, b: jax.Array, params: Tree, directions: tuple[Tree, Tree]) -> jax.Array:
        return loss(jax.tree.map(lambda w, x, y: w + a * x + b * y, params, *directions))

    steps = np.linspace(-radius, radius, points)
    losses = [[float(at(a, b, params, directions)) for b in steps] for a in steps]
    return Surface(np.array(losses), steps)


def of_network(
    network: Predictor,
    inputs: np.ndarray,
    target: targets.Target | Any = None,
    *,
    radius: float = 1.0,
    points: int = 21,
    seed: int = 0,
) -> Surface:
    """Returns the mean cross-entropy of images around the parameters, in evaluation mode.

    Running statistics stay those of the centre.

    Args:
      network: of a run or of published weights.
      inputs: `[N, H, W, C]`, as `network.preprocess` returns them; computed as one batch.
      target: a class for all images or one for each, such as the labels; by default the class with
        the highest logit at the centre.
      radius: see `grid`.
      points: see `grid`.
      seed: the seed of the two directions.

    Raises:
      UserError: there is no such class; see also `grid`.
    """
    variables = dict(network.variables)
    params = variables["params"]
    given = targets.indices(network.class_names, len(inputs), target)

    def logits(params: Tree) -> jax.Array:
        return network.predict({**variables, "params": params}, {"image": jnp.asarray(inputs)})[
            "logits"
        ]

    classes = np.asarray(targets.chosen(given, jax.jit(logits)(params)))

    def loss(params: Tree) -> jax.Array:
        log_shares = jax.nn.log_softmax(logits(params))
        return -jnp.take_along_axis(log_shares, classes[:, None], 1).mean()

    first, second = jax.random.split(jax.random.key(seed))
    both = direction(params, first), direction(params, second)
    return grid(loss, params, both, radius=radius, points=points)
