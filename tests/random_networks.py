"""Networks with random weights and their logits for random images."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import models
from tests.networks import NETWORKS

# Gains of the random weights of layers without a ReLU; other layers have a gain of 2. 'project' is
# the linear bottleneck. 'se' is small so that the gates of squeeze-and-excitation stay away from 0
# and 1, even after fifty blocks: a saturated gate that bfloat16 flips would change the logits.
GAINS = {"project": 1, "se": 0.002}


def init_shapes(model: Any, name: str, train: bool = False, size: int = 0) -> Any:
    """Returns shapes and dtypes of `model.init`, by default for images of `NETWORKS[name].size`."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    side = size or NETWORKS[name].size
    images = jnp.zeros((1, side, side, models.input_shape(name)[2]))
    return jax.eval_shape(lambda: model.init(rngs, images, train=train))


@functools.cache
def small_shapes(name: str, overrides: tuple[tuple[str, Any], ...]) -> Any:
    """Returns shapes and dtypes of the variables for images of `NETWORKS[name].size`."""
    return init_shapes(models.create(name, num_classes=10, **dict(overrides)), name)


def random_variables(name: str, **overrides: Any) -> Any:
    """Returns normal weights that keep the scale of the signal, and nonzero biases."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, leaf.shape)
        fan_in = leaf.size // leaf.shape[-1]
        gain = next((GAINS[part.key] for part in path[:-1] if part.key in GAINS), 2)
        scale = 1 if path[-1].key == "scale" else 0
        return scale + rng.normal(0, (gain / fan_in) ** 0.5 if leaf.ndim > 1 else 0.1, leaf.shape)

    return jax.tree.map_with_path(draw, small_shapes(name, tuple(sorted(overrides.items()))))


def random_images(name: str, count: int = 2) -> np.ndarray:
    side, channels = NETWORKS[name].size, models.input_shape(name)[2]
    return np.random.default_rng(1).normal(size=(count, side, side, channels))


@functools.cache
def program(
    name: str, dtype: str, train: bool, overrides: tuple[tuple[str, Any], ...]
) -> Callable[..., jax.Array]:
    """Returns the compiled function of variables, images and PRNG key that computes the logits."""
    model = models.create(name, num_classes=10, dtype=dtype, **dict(overrides))
    mutable = ["batch_stats"] if train else False

    def apply(variables: Any, images: jax.Array, key: jax.Array) -> Any:
        rngs = {"dropout": key}
        result = model.apply(variables, images, train=train, rngs=rngs, mutable=mutable)
        return result[0] if train else result

    return jax.jit(apply)


def logits_of(
    name: str,
    *,
    dtype: str = "float32",
    train: bool = False,
    key: int = 0,
    images: np.ndarray | None = None,
    **overrides: Any,
) -> jax.Array:
    """Returns the logits of a network with random variables, for random images by default."""
    input_dtype = jnp.float64 if dtype == "float64" else jnp.float32
    variables, images_ = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, input_dtype),
        (
            random_variables(name, **overrides),
            random_images(name) if images is None else images,
        ),
    )
    apply = program(name, dtype, train, tuple(sorted(overrides.items())))
    return apply(variables, images_, jax.random.key(key))
