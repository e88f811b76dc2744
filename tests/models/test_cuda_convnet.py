"""Tests of the cuda-convnet networks against NumPy references written from its definitions."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models

Array = np.ndarray
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
}


def conv(x: Array, layer: Any) -> Array:
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows, layer["kernel"], optimize=True) + layer["bias"]


def pool(x: Array, reduce: Callable[..., Array]) -> Array:
    """Applies `reduce` to 3x3 windows with stride 2 that cover all pixels, cut at the border."""
    starts = range(0, x.shape[1] - 1, 2)
    rows = [[reduce(x[:, i : i + 3, j : j + 3], (1, 2)) for j in starts] for i in starts]
    return np.moveaxis(np.asarray(rows), 2, 0)


def norm(x: Array) -> Array:
    """Divides each pixel by a power of the squares of the 3x3 pixels around it in its map."""
    padded = np.pad(x**2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return x / (1 + 0.00005 / 9 * windows.sum((-2, -1))) ** 0.75


def dense(x: Array, layer: Any) -> Array:
    return x @ layer["kernel"] + layer["bias"]


def quick(params: Any, x: Array, act: Callable[[Array], Array]) -> Array:
    x = act(pool(conv(x, params["conv1"]), np.max))
    x = pool(act(conv(x, params["conv2"])), np.mean)
    x = pool(act(conv(x, params["conv3"])), np.mean)
    return dense(act(dense(x.reshape(len(x), -1), params["fc64"])), params["fc10"])


def eighteen_percent(params: Any, x: Array, act: Callable[[Array], Array]) -> Array:
    x = norm(act(pool(conv(x, params["conv1"]), np.max)))
    x = norm(pool(act(conv(x, params["conv2"])), np.mean))
    x = pool(act(conv(x, params["conv3"])), np.mean)
    return dense(x.reshape(len(x), -1), params["fc10"])


@pytest.mark.parametrize(("size", "activation"), [(32, "relu"), (27, "tanh")])
@pytest.mark.parametrize(
    ("name", "reference"),
    [("cuda_convnet_quick", quick), ("cuda_convnet_18pct", eighteen_percent)],
)
def test_logits_equal_those_of_a_numpy_reference(
    name: str, reference: Any, size: int, activation: str
) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(0, 60, (2, size, size, 3))  # the scale of pixels from 0 to 255
    with jax.enable_x64(True):
        model = models.create(name, num_classes=10, dtype="float64", activation=activation)
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
        variables = jax.tree.map(
            lambda leaf: rng.normal(0, (leaf.size // leaf.shape[-1]) ** -0.5, leaf.shape), shapes
        )
        logits = jax.jit(lambda *arguments: model.apply(*arguments, train=False))(variables, images)
    expected = reference(variables["params"], images, ACTIVATIONS[activation])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(cast("jax.Array", logits), expected, rtol=0, atol=1e-12 * scale)


def test_18pct_logits_change_without_local_response_norm() -> None:
    images = jnp.asarray(np.random.default_rng(0).normal(0, 60, (2, 32, 32, 3)), jnp.float32)

    def logits(**overrides: Any) -> Array:
        model = models.create("cuda_convnet_18pct", num_classes=10, **overrides)

        @jax.jit
        def compute() -> Any:
            variables = model.init(jax.random.key(0), images, train=False)
            variables = jax.tree.map(lambda leaf: leaf * 30, variables)
            return model.apply(variables, images, train=False)

        return np.asarray(compute())

    with_norm, without = logits(), logits(local_response_norm=False)
    assert np.abs(with_norm - without).max() > 1e-3 * np.abs(without).max()
