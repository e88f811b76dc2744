"""Tests of wide ResNets against a NumPy forward pass."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import models
from cnn_jax.models import layers

Array = np.ndarray
SMALL: Any = {"depth": 16, "width": 2, "dtype": "float64"}


def random_variables(model: Any) -> Any:
    """Returns positive random variables, scaled down by layer size."""
    rng = np.random.default_rng(0)
    images = np.zeros((1, 8, 8, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree.map(lambda leaf: rng.uniform(0.2, 1, leaf.shape) / leaf.size**0.3, variables)


def conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolves `[B, H, W, C]` with zero padding of half the kernel size."""
    padding = len(kernel) // 2
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows[:, ::stride, ::stride], kernel, optimize=True)


class WideResNet:
    """Reference network: Table 1 of the paper with two blocks in each stage."""

    def __init__(self, variables: Any) -> None:
        self.params, self.stats = variables["params"], variables["batch_stats"]

    def active(self, x: Array, *path: str) -> Array:
        """Applies the normalisation at `path` in evaluation mode, then ReLU."""
        layer, stats = self.params, self.stats
        for name in path:
            layer, stats = layer[name], stats[name]
        x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
        return np.maximum(x * layer["scale"] + layer["bias"], 0)

    def __call__(self, x: Array) -> Array:
        x = conv(x, self.params["conv1"]["kernel"])
        for name, stride in (("conv2", 1), ("conv3", 2), ("conv4", 2)):
            first, second = self.params[f"{name}_0"], self.params[f"{name}_1"]
            y = self.active(x, f"{name}_0", "bn1")
            x = conv(y, first["shortcut"]["kernel"], stride)
            y = self.active(conv(y, first["conv1"]["kernel"], stride), f"{name}_0", "bn2")
            x = x + conv(y, first["conv2"]["kernel"])
            y = conv(self.active(x, f"{name}_1", "bn1"), second["conv1"]["kernel"])
            x = x + conv(self.active(y, f"{name}_1", "bn2"), second["conv2"]["kernel"])
        x = self.active(x, "bn").mean((1, 2))
        return x @ self.params["fc"]["kernel"] + self.params["fc"]["bias"]


def test_logits_equal_those_of_the_numpy_forward_pass() -> None:
    images = np.random.default_rng(1).normal(size=(2, 10, 10, 3))
    with jax.enable_x64(True):
        model = models.create("wrn_16_8", num_classes=10, **SMALL)
        variables = random_variables(model)
        logits = jax.jit(lambda *args: model.apply(*args, train=False))(variables, images)
        logits = np.asarray(cast("jax.Array", logits))
    expected = WideResNet(variables)(images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_blocks_that_keep_the_number_of_channels_have_no_projection() -> None:
    """With a width of 1 this includes the first block of the first stage."""
    model = models.create("wrn_16_8", num_classes=10, depth=10, width=1)
    params = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    )["params"]
    assert [block for block in params if "shortcut" in params[block]] == ["conv3_0", "conv4_0"]


@pytest.mark.parametrize("depth", [4, 15, 18])
def test_a_depth_other_than_6n_plus_4_raises(depth: int) -> None:
    model = models.create("wrn_28_10", num_classes=10, depth=depth)
    message = rf"model.depth must be 6 n \+ 4, such as 10, 16, 22 or 28, got {depth}"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


def test_convolutions_start_as_in_the_code_of_the_authors() -> None:
    """Their utils.lua, MSRinit: a standard deviation of sqrt(2 / n), n = kW kH nInputPlane."""
    model = models.create("wrn_16_8", num_classes=10, depth=10)
    kinds = set()

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, layers.Conv):
            kinds.add(context.module.kernel_init)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        images = jnp.zeros((1, 8, 8, 3))
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    (init,) = kinds
    kernel = np.asarray(init(jax.random.key(0), (3, 3, 16, 64)))
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 16)) ** 0.5, rtol=5 / kernel.size**0.5)
