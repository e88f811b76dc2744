"""Tests of filters, feature maps, norms, dead ReLUs and receptive fields, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import errors, inspect, models
from cnn_jax.models import layers
from tests.inspect.small import SHAPE, Linear, Pooling, images, logits_of, make


class Chain(nn.Module):
    """Products with one weight each, and the mean over all pixels."""

    num_classes: int = 3
    depth: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images
        for index in range(self.depth):
            weight = self.param(f"weight{index}", nn.initializers.constant(0.5), (1,))
            x = layers.feature(self, f"stage{index}", x * weight)
        return nn.Dense(self.num_classes, name="fc")(x.mean((1, 2)))


def test_norms_of_a_chain_shrink_by_its_weights() -> None:
    """By hand: four weights of 0.5 halve activations forwards, and gradients backwards."""
    network, inputs = make(Chain()), images(3)
    rows = inspect.flow.stages(network, inputs, ["a", "b", "c"])
    assert [row.stage for row in rows] == ["stage0", "stage1", "stage2", "stage3"]
    root = math.sqrt((inputs**2).mean())
    np.testing.assert_allclose(
        [row.activation / root for row in rows], 0.5 ** np.arange(1, 5), 1e-5
    )
    gradients = [row.gradient for row in rows]
    np.testing.assert_allclose(np.divide(gradients[:-1], gradients[1:]), 0.5, 1e-5)
    # The gradient at the last stage is that of softmax regression on the mean pixel.
    kernel = network.variables["params"]["fc"]["kernel"]
    logits = logits_of(network, inputs)
    slopes = (jax.nn.softmax(logits) - jnp.eye(3)) @ kernel.T / (SHAPE[0] * SHAPE[1])
    assert gradients[-1] == pytest.approx(float(jnp.sqrt((slopes**2).mean())), rel=1e-5)


def test_norms_of_parameters_are_those_of_the_gradient() -> None:
    network, inputs = make(Linear()), images(2)
    rows = {row.path: row for row in inspect.flow.parameters(network, inputs, 1)}
    logits = logits_of(network, inputs)
    errors_ = jax.nn.softmax(logits) - jnp.eye(3)[jnp.array([1, 1])]
    assert set(rows) == {"fc/bias", "fc/kernel"}
    slope = inputs.reshape(2, -1).T @ errors_ / 2
    assert rows["fc/kernel"].gradient == pytest.approx(float(jnp.linalg.norm(slope)), rel=1e-4)
    kernel = network.variables["params"]["fc"]["kernel"]
    assert rows["fc/kernel"].parameter == pytest.approx(float(jnp.linalg.norm(kernel)), rel=1e-5)


class Rectified(nn.Module):
    """Two dense layers with ReLUs."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(nn.Dense(4, name="first")(images.mean((1, 2))))
        x = nn.relu(nn.Dense(3, name="second")(x))
        return nn.Dense(self.num_classes, name="fc")(nn.tanh(x))


def test_units_whose_bias_is_too_low_are_dead() -> None:
    network = make(Rectified())
    params = network.variables["params"]
    params["first"]["bias"] = jnp.array([0.0, -1e3, 1e3, -1e3])
    rows = inspect.flow.dead_relus(network, images(7))  # a batch of four, and one of three
    assert [row.layer for row in rows] == ["network 1", "network 2"]
    assert rows[0].dead == 2 + int(rows[0].active[0] == 0)
    inside = images(7).mean((1, 2)) @ params["first"]["kernel"] + params["first"]["bias"]
    np.testing.assert_allclose(rows[0].active, (inside > 0).mean(0), atol=1e-6)
    with pytest.raises(errors.UserError, match="no ReLU that can be found"):
        inspect.flow.dead_relus(make(Linear()), images())


@pytest.mark.slow
def test_the_relus_of_a_network_have_the_names_of_its_modules() -> None:
    network = make(models.create("resnet20", num_classes=3), (8, 8, 3))
    rows = inspect.flow.dead_relus(network, images(2, (8, 8, 3)))
    assert len(rows) == 19  # the stem, and two in each of nine blocks
    assert [row.layer for row in rows[:3]] == ["network", "layer1_0 1", "layer1_0 2"]


# Filters and feature maps


def test_the_filters_are_the_kernels_of_the_first_layer() -> None:
    network = make(Pooling())
    layer, kernels = inspect.filters.first_layer(network)
    assert layer == "conv"
    kernel = network.variables["params"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernels, np.moveaxis(kernel, -1, 0))
    layer, kernels = inspect.filters.first_layer(make(Linear()))
    assert layer == "fc"
    assert kernels.shape == (3, *SHAPE)
    with pytest.raises(errors.UserError, match="first layer is no convolution and no dense layer"):
        inspect.filters.first_layer(make(Rectified()))


def test_feature_maps_are_the_endpoint() -> None:
    network, inputs = make(Pooling()), images()
    found = inspect.filters.feature_maps(network, inputs, "stage")
    expected = models.features(network.model, network.variables, jnp.asarray(inputs))["stage"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    order = np.abs(found[0]).mean((0, 1)).argsort()[::-1]
    assert inspect.filters.strongest(found[0], 2).tolist() == order[:2].tolist()


# Receptive field


class Convolutions(nn.Module):
    """Linear convolutions with the kernel [1, 2, 1] along both axes."""

    num_classes: int = 3
    depth: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        kernel = np.outer([1, 2, 1], [1, 2, 1])[:, :, None, None] / 16
        x = images
        for index in range(self.depth):
            conv = nn.Conv(1, (3, 3), use_bias=False, kernel_init=lambda *_: jnp.asarray(kernel))
            x = layers.feature(self, f"stage{index}", conv(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


@pytest.mark.parametrize("depth", [1, 3])
def test_the_receptive_field_of_linear_convolutions_is_binomial(depth: int) -> None:
    shape = (17, 17, 1)
    network = make(Convolutions(), shape)
    found = inspect.receptive_field(network, images(2, shape), f"stage{depth - 1}")
    # n kernels [1, 2, 1] are the binomial coefficients of 2 n.
    row = np.array([math.comb(2 * depth, index) for index in range(2 * depth + 1)])
    field = np.outer(row, row) / row.max() ** 2
    expected = np.pad(field, 8 - depth)
    np.testing.assert_allclose(found.map, expected, atol=1e-6)
    assert found.extent == (2 * depth + 1, 2 * depth + 1)
    assert found.size == pytest.approx(math.sqrt((field > 0.0455).sum()))


def test_a_stage_without_pixels_has_no_receptive_field() -> None:
    with pytest.raises(errors.UserError, match="'pooled' has no height and width"):
        inspect.receptive_field(make(Pooling()), images(), "pooled")
