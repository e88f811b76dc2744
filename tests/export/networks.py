"""Predictors of networks with random weights, for the tests of exports."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import models, pretrained
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor
from tests.toys import CROSS_ENTROPY


def make(name: str, size: int, classes: int = 7, **options: Any) -> Predictor:
    """Returns the predictor of a network with random parameters and running statistics."""
    model = models.create(name, num_classes=classes, **options)
    channels = models.input_shape(name)[-1]
    shape = (size, size, channels)
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        key = jax.tree_util.keystr(path)
        if leaf.ndim > 1:
            scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return (rng.standard_normal(leaf.shape) * scale).astype(np.float32)
        low, high = (0.5, 1.5) if "scale" in key or "var" in key else (-0.1, 0.1)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    images = jnp.zeros((1, *shape))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    names = tuple(f"class {index}" for index in range(classes))
    mean, std = (0.45, 0.5, 0.4)[:channels], (0.2, 0.3, 0.25)[:channels]
    prepare = pretrained.Preprocessing(size, size, names, mean, std)
    variables = jax.tree.map_with_path(draw, shapes)
    predict = Classification(model, CROSS_ENTROPY).predict
    return Predictor(predict, variables, prepare, shape, names, model=model)


def pixels(network: Predictor, count: int) -> np.ndarray:
    """Returns random pixels `[count, H, W, C]` uint8."""
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, *network.input_shape), np.uint8)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest logit."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
