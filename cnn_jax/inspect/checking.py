"""Gradient check: the derivatives of a network against central differences, in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax import errors
from cnn_jax.contracts import Tree
from cnn_jax.predictor import Predictor

_STEPS = (1e-4, 1e-5, 1e-6)  # of the differences; the best one counts
TOLERANCE = 1e-5
"""Largest relative error of a right derivative."""


class Checked(NamedTuple):
    """The derivative of the loss along one random direction.

    Attributes:
      path: the path of the array whose elements change, joined by '/'; 'images' for the images.
      derivative: that of automatic differentiation.
      difference: that of central differences.
      error: the distance of both, relative to the larger one or to the scale of rounding.
    """

    path: str
    derivative: float
    difference: float
    error: float


def directional(loss: Callable[[Tree], jax.Array], at: Tree, seed: int = 0) -> list[Checked]:
    """Returns a check of the gradient with respect to each array of a tree.

    Each array is moved along one random direction of the length 1. A kink of a ReLU within a step
    spoils a difference, so several steps are tried and the best difference counts.

    Args:
      loss: a function of the tree, traceable.
      at: the tree; computed in float64.
      seed: the seed of the directions.
    """
    with jax.enable_x64(True):
        at = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), at)
        value, slopes = jax.jit(jax.value_and_grad(loss))(at)
        compiled = jax.jit(loss)
        leaves, structure = jax.tree.flatten(at)
        paths = [path for path, _ in jax.tree.leaves_with_path(at)]
        generator = np.random.default_rng(seed)
        # The rounding of a loss limits a difference to about its epsilon divided by the step.
        scale = max(abs(float(value)), 1.0) * np.finfo(float).eps / (max(_STEPS) * TOLERANCE)
        result = []
        for index, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
            vector = generator.normal(size=leaf.shape)
            vector /= np.linalg.norm(vector)
            derivative = float(jnp.vdot(jax.tree.leaves(slopes)[index], vector))

            def moved(step: float, index: int = index, vector: Any = vector) -> float:
                changed = [*leaves[:index], leaves[index] + step * vector, *leaves[index + 1 :]]
                return float(compiled(jax.tree.unflatten(structure, changed)))

            differences = [(moved(step) - moved(-step)) / (2 * step) for step in _STEPS]
            found = min(differences, key=lambda one: abs(one - derivative))
            larger = max(abs(found), abs(derivative), scale)
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            result.append(Checked(name, derivative, found, abs(found - derivative) / larger))
    return result


def of_model(
    model: nn.Module,
    variables: Any,
    input_shape: tuple[int, int, int],
    *,
    train: bool = True,
    images: int = 2,
    seed: int = 0,
) -> list[Checked]:
    """Returns a check of the gradient of the cross-entropy with respect to parameters and images.

    Args:
      model: any network with the contract of `models.create`; its field `dtype` becomes float64.
      variables: its parameters and running statistics.
      input_shape: height, width and channels of the images.
      train: True for training mode, with the moments of the batch and fixed dropout.
      images: the number of random images.
      seed: the seed of images, labels, dropout and directions.

    Raises:
      UserError: the network computes in another dtype.
    """
    generator = np.random.default_rng(seed)
    pixels = generator.normal(size=(images, *input_shape))
    if hasattr(model, "dtype"):
        model = model.clone(dtype="float64")
    others = {name: tree for name, tree in dict(variables).items() if name != "params"}

    def logits(tree: Tree, others: Tree) -> jax.Array:
        result, _ = model.apply(
            {**others, "params": tree["params"]},
            tree["images"],
            train=train,
            rngs={"dropout": jax.random.key(seed)},
            mutable=["batch_stats", "aux_logits", "features"],
        )
        return result["logits"] if isinstance(result, dict) else result

    with jax.enable_x64(True):
        others = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), others)
        tree = {"images": jnp.asarray(pixels), "params": dict(variables)["params"]}
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)
        shape = jax.eval_shape(logits, wide, others)
        if shape.dtype != jnp.float64:
            raise errors.UserError(
                f"the network computes in {shape.dtype}; give it a field dtype that its layers "
                "use, so that float64 can be chosen"
            )
        labels = generator.integers(0, shape.shape[-1], images)

        def loss(tree: Tree) -> jax.Array:
            shares = jax.nn.log_softmax(logits(tree, others))
            return -jnp.take_along_axis(shares, jnp.asarray(labels)[:, None], 1).mean()

        return directional(loss, tree, seed)


def of_network(network: Predictor, *, train: bool = True, seed: int = 0) -> list[Checked]:
    """Returns the check of `of_model` for the network of a predictor.

    Raises:
      UserError: the predictor has no Linen module, or the network computes in another dtype.
    """
    if network.model is None:
        raise errors.UserError(
            "the gradient check needs the Linen module, but the objective has no attribute 'model'"
        )
    return of_model(network.model, network.variables, network.input_shape, train=train, seed=seed)
