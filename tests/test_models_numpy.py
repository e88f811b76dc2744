"""NumPy references of the small networks."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import models
from tests.random_networks import logits_of, random_images, random_variables

ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def conv(x: np.ndarray, layer: Mapping[str, np.ndarray], padding: int = 0) -> np.ndarray:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = layer["kernel"].shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows, layer["kernel"], optimize=True) + layer["bias"]


def windows_2x2(x: np.ndarray) -> np.ndarray:
    """Returns the windows of a 2x2 pooling, `[B, H // 2, 2, W // 2, 2, C]`."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def dense(x: np.ndarray, layer: Mapping[str, np.ndarray]) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def reference_lenet(params: Any, x: np.ndarray, activation: str) -> np.ndarray:
    act = ACTIVATIONS[activation]
    for name in ("C1", "C3"):
        x = windows_2x2(act(conv(x, params[name]))).mean((2, 4))
    x = x.reshape(len(x), -1)
    for name in ("C5", "F6"):
        x = act(dense(x, params[name]))
    return dense(x, params["output"])


def reference_mlp(params: Any, x: np.ndarray, activation: str) -> np.ndarray:
    hidden = ACTIVATIONS[activation](dense(x.reshape(len(x), -1), params["hidden1"]))
    return dense(hidden, params["output"])


def reference_fashion_cnn(params: Any, x: np.ndarray, activation: str) -> np.ndarray:
    act = ACTIVATIONS[activation]
    x = windows_2x2(act(conv(x, params["conv1"], padding=3))).max((2, 4))
    for stage in (2, 3):
        for block in "ab":
            x = act(conv(x, params[f"conv{stage}{block}"], padding=1))
        x = windows_2x2(x).max((2, 4))
    x = x.reshape(len(x), -1)
    for name in ("dense1", "dense2"):
        x = act(dense(x, params[name]))
    return dense(x, params["output"])


@pytest.mark.parametrize(
    ("name", "reference", "activation"),
    [
        *(("lenet", reference_lenet, activation) for activation in ACTIVATIONS),
        *(("mlp", reference_mlp, activation) for activation in ACTIVATIONS),
        ("fashion_cnn", reference_fashion_cnn, "relu"),
    ],
)
def test_logits_equal_those_of_a_numpy_reference(
    name: str, reference: Any, activation: str
) -> None:
    overrides: dict[str, Any] = (
        {"activation": activation} if "activation" in models.options(name) else {}
    )
    with jax.enable_x64(True):
        logits = logits_of(name, dtype="float64", **overrides)
    expected = reference(random_variables(name)["params"], random_images(name), activation)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
