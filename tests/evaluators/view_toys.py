"""Predictors with views: toy networks with the preprocessing of weights and of runs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax import errors, plan, predictor, pretrained
from cnn_jax.contracts import Description
from cnn_jax.evaluators import views
from cnn_jax.models import layers, shapes
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor
from tests.golden.make_views import pictures
from tests.toys import CROSS_ENTROPY, Dense, Own

NAMES = ("cat", "dog", "eel")
SIZE, SIDE = 16, 20
PICTURES = list(pictures().values())[:4]  # wide, tall, square and small


class Pooling(Own):
    """A convolution, global average pooling and a dense layer."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(layers.Conv(5, (3, 3), 2, name="conv")(images))
        return nn.Dense(self.num_classes, name="fc")(x.mean((1, 2)))


class AdaptivePooling(Own):
    """A network that pools to a fixed size, as torchvision's VGG does."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = shapes.flatten_for(self, "fc", images, images, pooled=SIZE)
        return nn.Dense(self.num_classes, name="fc")(x)


class Auxiliary(Own):
    """A network with a head that evaluation does not use, and whose parameters fix the size."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        if train or self.is_initializing():
            nn.Dense(self.num_classes, name="aux")(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes, name="fc")(images.mean((1, 2)))


class Striped(Own):
    """A network that takes heights of the input up to 20 pixels."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        if not self.is_initializing() and images.shape[1] > SIDE:
            raise errors.UserError("too high")
        return nn.Dense(self.num_classes, name="fc")(images.mean((1, 2)))


class Fixed(Own):
    """A network that is built for one height of the input only."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        if images.shape[1] > SIZE:
            raise ValueError("too high")
        return nn.Dense(self.num_classes, name="fc")(images.mean((1, 2)))


def published(network: nn.Module | None = None, **preparation: Any) -> Predictor:
    """Returns the predictor of a toy network with the preprocessing of published weights."""
    prepare = pretrained.Preprocessing(
        **{"image_size": SIZE, "resize_size": SIDE, "class_names": NAMES, **preparation}
    )
    network = network or Pooling(3)
    shape = prepare.input_shape
    objective = Classification(network, CROSS_ENTROPY)
    batch = {"image": jnp.zeros((1, *shape))}
    params, stats, _ = jax.jit(objective.init)(jax.random.key(0), batch)
    # Larger parameters give probabilities that differ.
    variables = {"params": jax.tree.map(lambda leaf: 4 * np.asarray(leaf), params)}
    variables["batch_stats"] = stats
    return Predictor(
        objective.predict, variables, prepare, shape, NAMES, model=network, batch_size=8
    )


def run_of(**keys: Any) -> Predictor:
    """Returns the predictor of a run on grey images of 12x12 pixels."""
    description = Description(NAMES, (12, 12), (SIZE, SIZE, 1), (0.5,), (0.25,))
    objective = Classification(Dense(norm=False), CROSS_ENTROPY)
    variables: Any = {"params": {}, "batch_stats": {}}  # Not used.
    settings = plan.read({f"data.{key}": value for key, value in keys.items()})
    return predictor.of_parts(settings, description, objective, variables, batch_size=8)


@functools.cache
def toy() -> Predictor:
    return published()


@functools.cache
def seen(wanted: Any) -> views.Viewed:
    """Returns the toy's predictor with views; one object, so that it is compiled once."""
    return views.with_views(toy(), wanted)


@functools.cache
def network() -> Any:
    """Returns the compiled network of the toy: `[B, H, W, C]` to logits `[B, K]`."""
    return jax.jit(lambda images: toy().predict(toy().variables, {"image": images})["logits"])


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def inputs_of(viewed: views.Viewed, picture: Any) -> list[np.ndarray]:
    """Returns the inputs of all views of a picture, one after the other."""
    return [one for part in viewed.prepare_views(picture, "it") for one in part]
