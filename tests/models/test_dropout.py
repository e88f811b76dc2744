"""Tests of DropConnect and stochastic pooling as layers, and of rates of stochastic depth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import models, objectives, ops, plan
from cnn_jax.contracts import Carried, Description
from cnn_jax.models.dropout import DropConnect, Dropout, StochasticPool, dense
from cnn_jax.models.inverted_residual import InvertedResidual

KEY, OTHER = jax.random.key(0), jax.random.key(1)
RATE = 0.25
DESCRIPTION = Description(
    class_names=("a", "b", "c"), native_size=(8, 8), input_shape=(8, 8, 1), mean=(0.5,), std=(0.25,)
)


def recording(masked: list[np.ndarray]) -> Any:
    """Returns an interceptor that appends the result of each dropout to a list."""

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        if isinstance(context.module, Dropout):
            masked.append(np.asarray(result))
        return result

    return nn.intercept_methods(record)


def test_drop_connect_masks_weights_and_biases_of_each_example() -> None:
    layer = DropConnect(16, rate=RATE, deterministic=False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 20)).astype(np.float32)
    params = {"kernel": rng.normal(size=(20, 16)), "bias": np.ones(16)}
    params = {name: value.astype(np.float32) for name, value in params.items()}
    masked: list[np.ndarray] = []
    with recording(masked):
        found: Any = layer.apply({"params": params}, x, rngs={"dropout": KEY})
    kernels, biases = masked
    for values, whole in ((kernels, params["kernel"]), (biases, params["bias"])):
        kept = values != 0
        assert 0.6 < kept.mean() < 0.85
        np.testing.assert_allclose(values, np.where(kept, whole / (1 - RATE), 0), rtol=1e-6)
        assert not np.array_equal(kept[0], kept[1])
    expected = np.stack([one @ kernel for one, kernel in zip(x, kernels, strict=True)]) + biases
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_drop_connect_is_a_dense_layer_in_evaluation_and_at_rate_0() -> None:
    x = jax.random.normal(KEY, (6, 20))
    plain = nn.Dense(16)
    variables = plain.init(KEY, x)
    expected: Any = plain.apply(variables, x)
    for layer in (DropConnect(16, rate=RATE), DropConnect(16, deterministic=False)):
        assert jax.tree.all(jax.tree.map(jnp.array_equal, layer.init(KEY, x), variables))
        found: Any = layer.apply(variables, x)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert dense(0.0, train=True) is nn.Dense


def test_stochastic_pooling_draws_in_training_and_averages_in_evaluation() -> None:
    x = jax.random.uniform(KEY, (2, 5, 5, 3))
    average: Any = StochasticPool(3, 2).apply({}, x)
    np.testing.assert_array_equal(average, ops.stochastic_pool(x, 3, 2, key=None))
    layer = StochasticPool(3, 2, deterministic=False)
    drawn, other = (np.asarray(layer.apply({}, x, rngs={"dropout": key})) for key in (KEY, OTHER))
    assert np.isin(drawn, x).all()
    assert not np.array_equal(drawn, other)


@pytest.mark.parametrize("name", ["lenet", "cuda_convnet_quick"])
def test_stochastic_pooling_refuses_negative_activations(name: str) -> None:
    with pytest.raises(ValueError, match=r"set model\.activation to 'relu' or 'sigmoid'"):
        models.create(name, num_classes=3, activation="tanh", stochastic_pooling=True)


def test_drop_connect_needs_a_hidden_layer() -> None:
    with pytest.raises(ValueError, match=r"drop_connect_rate is for the hidden dense layer"):
        models.create("cuda_convnet_18pct", num_classes=3, drop_connect_rate=0.5)


@pytest.mark.parametrize(("trainable", "draws"), [("head", False), ("hidden1", True)])
def test_frozen_layers_drop_no_weight(trainable: str, draws: bool) -> None:
    options = {"name": "mlp", "widths": (8,), "drop_connect_rate": 0.5}
    images = jnp.zeros((4, 8, 8, 1))
    batch = {"image": images, "label": jnp.arange(4) % 3, "weight": jnp.ones(4)}
    objective = objectives.make(
        plan.read({"model": options, "train": {"trainable": trainable}}), DESCRIPTION
    )

    def loss(key: jax.Array) -> jax.Array:
        params, stats, extra = objective.init(KEY, {"image": images[:1]}, zeros)
        carried = Carried(jnp.zeros((), jnp.int32), stats, extra)
        return objective.loss(params, carried, batch, key)[0]

    shapes = jax.eval_shape(lambda: objective.init(KEY, {"image": images[:1]})[0])
    zeros = {"params": jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)}
    assert ("random_bits" in str(jax.make_jaxpr(loss)(KEY))) == draws


def test_rates_of_stochastic_depth_in_mobilenets_are_those_of_timm() -> None:
    """Rates of timm 1.0.31: `drop_path_rate` times the block's number, over the number of blocks.

    The last block is a convolution, which has no stochastic depth.
    """
    rates: list[float] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, InvertedResidual) and context.method_name == "__call__":
            rates.append(context.module.drop_rate)
        return call(*args, **kwargs)

    model = models.create("mobilenetv3_small_075", num_classes=3, stochastic_depth_rate=0.2)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 32, 32, 3)), train=False))
    np.testing.assert_allclose(rates, 0.2 * np.arange(11) / 12, rtol=1e-12)
