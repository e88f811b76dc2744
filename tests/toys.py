"""Small networks and parts of a run that several test files use."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax import losses, plan
from cnn_jax.contracts import Batch, Carried, Objective, Outputs, Sums, TrainState, Tree, Variables
from cnn_jax.models import layers

CROSS_ENTROPY = losses.make(plan.Loss())


class Dense(nn.Module):
    """Batch normalisation, if wanted, and dense layers."""

    widths: tuple[int, ...] = (5, 3)
    norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.reshape(len(images), -1)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        for width in self.widths:
            x = nn.Dense(width)(x)
        return x


class Own(nn.Module):
    """A network as users write it, for the name 'tests.toys:Own'."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


class Pooled(Own):
    """A network for images of any size: the mean pixel and a dense layer."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(self.num_classes)(images.mean((1, 2)))


class Normalised(Own):
    """A network with batch normalisation."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes)(x)


class Wrong(Own):
    """A network whose logits have an axis too many."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))[..., None]


class Noisy(nn.Module):
    """Convolution, batch normalisation and dropout."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = layers.Conv(4, (3, 3), name="conv")(images)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="output")(x.reshape(len(x), -1))


@dataclasses.dataclass(frozen=True)
class Averaged:
    """Objective that keeps an exponential average of the parameters in `extra["average"]`."""

    inner: Objective
    decay: float = 0.75

    def init(
        self, key: jax.Array, batch: Batch, given: Variables | None = None
    ) -> tuple[Tree, Tree, dict[str, Tree]]:
        params, batch_stats, extra = self.inner.init(key, batch, given)
        return params, batch_stats, {**extra, "average": params}

    def loss(
        self, params: Tree, carried: Carried, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Carried, Sums]]:
        return self.inner.loss(params, carried, batch, key)

    def after(self, state: TrainState) -> dict[str, Tree]:
        return {**self.inner.after(state), "average": self.mixed(state.extra["average"], state)}

    def predict(self, variables: Variables, batch: Batch) -> Outputs:
        return self.inner.predict(variables, batch)

    def mixed(self, average: Any, state: TrainState) -> Any:
        """Returns `average` moved towards the parameters of `state`."""
        return jax.tree.map(
            lambda old, new: self.decay * old + (1 - self.decay) * new, average, state.params
        )
