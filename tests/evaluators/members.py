"""Members of ensembles and soups: small networks, trained for a few steps on the digits."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax import plan, predictor
from cnn_jax.contracts import Carried, Description
from cnn_jax.data.sources import digits
from cnn_jax.data.sources.arrays import ArraySource
from cnn_jax.models import layers
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor
from tests.toys import CROSS_ENTROPY

CLASSES = tuple(map(str, range(10)))
MEAN, STD = 0.3, 0.37
BATCH, SIZE, STEPS = 64, 1200, 30  # of training


class Small(nn.Module):
    """Two dense layers, and batch normalisation before each of them."""

    width: int = 16
    norm: bool = True
    epsilon: float = 1e-5
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.reshape(len(images), -1)
        if self.norm:
            x = layers.BatchNorm(not train, epsilon=self.epsilon, name="norm1")(x)
        x = nn.relu(nn.Dense(self.width, name="dense1")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        if self.norm:
            # The mode is an argument here, and an attribute above.
            norm = nn.BatchNorm(epsilon=self.epsilon, name="norm2")
            x = norm(x, use_running_average=not train)
        return nn.Dense(10, name="dense2")(x)


@functools.cache
def source() -> ArraySource:
    return digits.source()


@functools.cache
def member(model: nn.Module, seed: int = 0, *, size: int = 8, mean: float = MEAN) -> Predictor:
    """Returns a network after some steps from common weights, with batches that `seed` draws.

    Args:
      model: the network.
      seed: of the order of examples.
      size: height and width of the input.
      mean: of the pixels, for their normalisation.
    """
    untrained, step = _start(model, size, mean)
    variables = untrained.variables
    start = (variables["params"], variables["batch_stats"])
    params, stats = step(start, jax.random.split(jax.random.key(seed), STEPS))
    return dataclasses.replace(untrained, variables={"params": params, "batch_stats": stats})


@functools.cache
def _start(model: nn.Module, size: int, mean: float) -> tuple[Predictor, Callable[..., Any]]:
    """Returns the untrained network, and the compiled function of all steps."""
    settings = plan.read({"data": {"image_size": size, "resize": "bilinear"}})
    description = Description(CLASSES, (8, 8), (size, size, 1), (mean,), (STD,))
    objective = Classification(model, CROSS_ENTROPY)
    params, stats, _ = objective.init(
        jax.random.key(0), {"image": jnp.zeros((1, *description.input_shape))}
    )
    variables = {"params": params, "batch_stats": stats}
    found = predictor.of_parts(settings, description, objective, variables, batch_size=100)
    examples = source().splits["train"]
    images = jnp.asarray(found.preprocess([examples[index]["image"] for index in range(SIZE)]))
    labels = jnp.asarray(examples.labels()[:SIZE])

    def step(state: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, stats = state
        rows = jax.random.randint(key, (BATCH,), 0, SIZE)
        batch = {"image": images[rows], "label": labels[rows], "weight": jnp.ones(BATCH)}
        carried = Carried(jnp.zeros((), jnp.int32), stats, {})
        grads, (carried, _) = jax.grad(objective.loss, has_aux=True)(params, carried, batch, key)
        params = jax.tree.map(lambda old, grad: old - 0.1 * grad, params, grads)
        return (params, carried.batch_stats), None

    return found, jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0])
