"""Small networks with their predictors, for the tests of `cnn_jax.inspect`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax import plan, predictor
from cnn_jax.contracts import Description
from cnn_jax.models import layers
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor
from tests.toys import CROSS_ENTROPY

SHAPE = (8, 12, 3)


def make(model: nn.Module, shape: tuple[int, int, int] = SHAPE, variables: Any = None) -> Predictor:
    """Returns the predictor of a network, with initial parameters by default."""
    settings = plan.read(
        {"data.image_size": shape[0], "data.channels": shape[2], "data.resize": "bilinear"}
    )
    description = Description(("a", "b", "c"), None, shape, (0.5,) * shape[2], (0.25,) * shape[2])
    objective = Classification(model, CROSS_ENTROPY)
    if variables is None:
        image = {"image": jnp.zeros((1, *shape))}
        params, batch_stats, _ = objective.init(jax.random.key(1), image)
        variables = {"params": params, "batch_stats": batch_stats}
    return predictor.of_parts(settings, description, objective, variables, batch_size=4)


def images(count: int = 2, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


class Pooling(nn.Module):
    """Convolution, global average pooling and a dense layer."""

    num_classes: int = 3
    relu: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(5, (3, 3), name="conv")(images)
        x = layers.feature(self, "stage", nn.relu(x) if self.relu else x)
        x = layers.feature(self, "pooled", x.mean((1, 2)))
        return nn.Dense(self.num_classes, name="fc")(x)


class Linear(nn.Module):
    """One dense layer on the pixels."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(self.num_classes, name="fc")(images.reshape(len(images), -1))


def logits_of(network: Predictor, inputs: np.ndarray) -> np.ndarray:
    return np.asarray(network.predict(network.variables, {"image": jnp.asarray(inputs)})["logits"])
