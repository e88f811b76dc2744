"""Predictors of networks without training, for the tests of exports."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import models, pretrained
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor
from tests.golden import fill
from tests.toys import CROSS_ENTROPY

GOLDEN = Path(__file__).parents[1] / "golden"
# Files with logits of timm or torchvision, whose networks of this name are the same.
REFERENCES = {
    "resnet18": GOLDEN / "torchvision-resnet18-96.json",
    "vit_tiny_patch16_224": GOLDEN / "timm-vit_tiny_patch16_224-224.json",
}


def make(name: str, size: int, classes: int = 7, **options: Any) -> Predictor:
    """Returns the predictor of a network with random parameters and running statistics.

    The variance of kernels is 1 / fan-in. With 2 / fan-in, the logits of seresnet50 are about 200,
    and in float32 they differ from those in float64 by 1e-4 of the largest, in JAX, too.
    """
    model = models.create(name, num_classes=classes, **options)
    channels = models.input_shape(name)[-1]
    shape = (size, size, channels)
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        key = jax.tree_util.keystr(path)
        if leaf.ndim > 1:
            scale = np.sqrt(1 / np.prod(leaf.shape[:-1]))
            return (rng.standard_normal(leaf.shape) * scale).astype(np.float32)
        low, high = (0.5, 1.5) if "scale" in key or "var" in key else (-0.1, 0.1)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    images = jnp.zeros((1, *shape))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    mean, std = (0.45, 0.5, 0.4)[:channels], (0.2, 0.3, 0.25)[:channels]
    return _predictor(model, jax.tree.map_with_path(draw, shapes), shape, mean, std)


def filled(name: str, **options: Any) -> Predictor:
    """Returns the predictor of a network with the weights of `tests/golden/fill.py`.

    Its logits are of the size of 1, as those of trained networks. It scales pixels to [-1, 1].

    Args:
      name: a name of `REFERENCES`, or a small network.
      **options: of the network.
    """
    if name in REFERENCES:
        model = models.create(name, num_classes=1000, **options)
        shape = tuple(reference(name)["input_shape"][1:])
        variables = pretrained.from_torch(name, state(name))
    else:
        model, shape = models.create(name, num_classes=10, **options), models.input_shape(name)
        images = jnp.zeros((1, *shape))
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

        def value(path: Any, leaf: Any) -> np.ndarray:
            key = jax.tree_util.keystr(path, simple=True, separator="/")
            return fill.parameter(key, leaf.shape).astype(np.float32)

        variables = jax.tree.map_with_path(value, shapes)
    half = (0.5,) * shape[-1]
    return _predictor(model, variables, shape, half, half)


def reference(name: str) -> dict[str, Any]:
    """Returns the file of a network of `REFERENCES`."""
    found: dict[str, Any] = json.loads(REFERENCES[name].read_text())
    return found


def state(name: str) -> dict[str, np.ndarray]:
    """Returns the weights of a network of `REFERENCES` as timm's state dict has them."""
    found = reference(name)
    return {
        key: fill.weight(key, tuple(shape), found["gain"]).astype(np.float32)
        for key, shape in found["state"]
    }


def _predictor(
    model: Any, variables: Any, shape: Any, mean: tuple[float, ...], std: tuple[float, ...]
) -> Predictor:
    names = tuple(f"class {index}" for index in range(model.num_classes))
    prepare = pretrained.Preprocessing(shape[0], shape[0], names, mean, std)
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
