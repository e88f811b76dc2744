"""Tests of the layers that all families share, some against loops in NumPy."""

import re
from itertools import product
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import errors
from cnn_jax.models import dropout, layers

Padding = int | Literal["SAME", "HALF"]


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Returns the number of padding pixels before and after one axis."""
    if padding == "HALF":
        return kernel // 2, kernel // 2
    if padding != "SAME":
        return padding, padding
    # TensorFlow's rule: ceil(size / stride) outputs; of an odd total, the extra pixel comes last.
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def reference_conv(
    x: np.ndarray, kernel: np.ndarray, stride: int, padding: Padding, groups: int
) -> np.ndarray:
    rows, columns, inputs, outputs = kernel.shape
    around = [pads(x.shape[1], rows, stride, padding), pads(x.shape[2], columns, stride, padding)]
    x = np.pad(x, ((0, 0), *around, (0, 0)))
    height, width = (x.shape[1] - rows) // stride + 1, (x.shape[2] - columns) // stride + 1
    y = np.zeros((len(x), height, width, outputs))
    for i, j, channel in product(range(height), range(width), range(outputs)):
        first = channel // (outputs // groups) * inputs
        top, left = i * stride, j * stride
        window = x[:, top : top + rows, left : left + columns, first : first + inputs]
        y[:, i, j, channel] = (window * kernel[..., channel]).sum((1, 2, 3))
    return y


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "groups"),
    [
        ((1, 1), 1, 0, 1),
        ((3, 3), 1, 1, 1),
        ((3, 2), 2, 0, 1),
        ((5, 5), 2, 3, 1),
        ((3, 3), 1, 1, 2),
        ((3, 3), 2, 1, 4),
        ((3, 3), 1, "SAME", 1),
        ((3, 3), 2, "SAME", 1),
        ((2, 5), 3, "SAME", 2),
        ((3, 5), 2, "HALF", 1),
    ],
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_conv_equals_a_loop(
    kernel_size: tuple[int, int], stride: int, padding: Padding, groups: int, use_bias: bool
) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 8, 7, 4))
    params = {"kernel": rng.normal(size=(*kernel_size, 4 // groups, 8)), "bias": rng.normal(size=8)}
    if not use_bias:
        params.pop("bias")
    conv = layers.Conv(
        8, kernel_size, stride, padding, groups, use_bias=use_bias, dtype=jnp.float64
    )
    with jax.enable_x64(True):
        result = cast("jax.Array", conv.apply({"params": params}, images))
    expected = reference_conv(images, params["kernel"], stride, padding, groups)
    np.testing.assert_allclose(result, expected + params.get("bias", 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("x64", [False, True])
def test_conv_has_a_float32_he_normal_kernel_and_a_zero_bias(x64: bool) -> None:
    with jax.enable_x64(x64):
        images = jnp.zeros((1, 8, 8, 64), jnp.float64 if x64 else jnp.float32)
        conv = layers.Conv(256, (3, 3), groups=2, dtype=images.dtype)
        params: Any = conv.init(jax.random.key(0), images)["params"]
    assert params["kernel"].shape == (3, 3, 32, 256)
    assert params["kernel"].dtype == params["bias"].dtype == jnp.float32
    assert not params["bias"].any()
    np.testing.assert_allclose(params["kernel"].var(), 2 / (3 * 3 * 32), rtol=0.02)


def test_he_normal_has_variance_two_over_fan_in() -> None:
    weights = np.asarray(layers.he_normal(jax.random.key(0), (5, 5, 32, 128), jnp.float32))
    deviation = (2 / (5 * 5 * 32)) ** 0.5
    assert abs(weights.mean()) < 0.02 * deviation
    np.testing.assert_allclose(weights.std(), deviation, rtol=0.01)
    beyond = (np.abs(weights) > 2 * deviation).mean()
    np.testing.assert_allclose(beyond, 0.0455, rtol=0.1)  # a normal distribution without truncation


def test_glorot_uniform_has_variance_two_over_fan_in_plus_fan_out() -> None:
    weights = np.asarray(layers.glorot_uniform(jax.random.key(0), (5, 5, 32, 128), jnp.float32))
    variance = 2 / (5 * 5 * 32 + 5 * 5 * 128)
    np.testing.assert_allclose(weights.var(), variance, rtol=0.01)
    np.testing.assert_allclose(np.abs(weights).max(), (3 * variance) ** 0.5, rtol=0.001)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_logits_are_at_least_float32(dtype: str, expected: str) -> None:
    with jax.enable_x64(True):
        assert layers.as_logits(jnp.ones(2, dtype)).dtype == expected


def test_unknown_activation_raises_error_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        layers.activation("sigmod")


def test_stochastic_depth_drops_examples_and_keeps_the_mean() -> None:
    module = WithStochasticDepth()
    x = jnp.ones((10_000, 2, 3))
    np.testing.assert_array_equal(module.apply({}, x, train=False), x)
    y = np.asarray(module.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    assert (y == y[:, :1, :1]).all(), "each example is dropped completely or not at all"
    assert set(np.unique(y)) == {0, np.float32(1 / 0.8)}
    np.testing.assert_allclose(y.mean(), 1, atol=0.02)


class WithStochasticDepth(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return dropout.stochastic_depth(x, 0.2, train=train)


def test_linear_rates_rise_from_zero_to_the_last() -> None:
    np.testing.assert_allclose(dropout.linear_rates(0.2, 5), [0, 0.05, 0.1, 0.15, 0.2])
    assert dropout.linear_rates(0.2, 1) == [0]


def test_squeeze_excite_scales_channels_by_gates_from_the_image_mean() -> None:
    rng = np.random.default_rng(0)
    shapes = {"reduce": (1, 1, 6, 2), "expand": (1, 1, 2, 6)}
    params = {
        name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[-1])}
        for name, shape in shapes.items()
    }
    x = rng.normal(size=(2, 3, 4, 6))
    with jax.enable_x64(True):
        result = layers.SqueezeExcite(2, dtype=jnp.float64).apply({"params": params}, x)
    hidden = x.mean((1, 2)) @ params["reduce"]["kernel"][0, 0] + params["reduce"]["bias"]
    gate = np.maximum(hidden, 0) @ params["expand"]["kernel"][0, 0] + params["expand"]["bias"]
    expected = x / (1 + np.exp(-gate))[:, None, None]
    np.testing.assert_allclose(cast("jax.Array", result), expected, rtol=0, atol=1e-12)


def test_divisible_rounds_widths_as_timm_does() -> None:
    # timm's and TensorFlow's values for MobileNetV2 with width multipliers of 0.35 and 1.4.
    assert [layers.divisible(0.35 * c) for c in (16, 24, 32, 64)] == [8, 8, 16, 24]
    assert [layers.divisible(1.4 * c) for c in (16, 24, 32, 64)] == [24, 32, 48, 88]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_that_of_flax(train: bool, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(0.5, 2, (4, 5, 6, 7)), jnp.float32)
    options: dict[str, Any] = {"momentum": 0.75, "epsilon": 1e-3, "dtype": dtype}
    ours = layers.BatchNorm(use_running_average=not train, **options)
    theirs = nn.BatchNorm(use_running_average=not train, **options)
    variables = {
        "params": {
            name: jnp.asarray(rng.normal(size=7), jnp.float32) for name in ("scale", "bias")
        },
        "batch_stats": {
            name: jnp.asarray(rng.uniform(1, 2, 7), jnp.float32) for name in ("mean", "var")
        },
    }
    initial = [norm.init(jax.random.key(0), x) for norm in (ours, theirs)]
    jax.tree.map(np.testing.assert_array_equal, *initial)
    results = [
        jax.jit(lambda v, x, norm=norm: norm.apply(v, x, mutable=["batch_stats"]))(variables, x)
        for norm in (ours, theirs)
    ]
    assert results[0][0].dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-7
    for result, expected in zip(*map(jax.tree.leaves, results), strict=True):
        pair = np.asarray(result, np.float32), np.asarray(expected, np.float32)
        np.testing.assert_allclose(*pair, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ratio", [0, 1000])
def test_layer_norm_equals_a_float64_computation_for_large_means(ratio: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(ratio, 1, (3, 5, 96)).astype(np.float32)
    params = {name: rng.normal(size=96).astype(np.float32) for name in ("scale", "bias")}
    exact = x.astype(np.float64)
    deviations = exact - exact.mean(-1, keepdims=True)
    expected = deviations / np.sqrt((deviations**2).mean(-1, keepdims=True) + 1e-6)
    expected = expected * params["scale"] + params["bias"]
    result: Any = layers.LayerNorm(1e-6, jnp.dtype(dtype)).apply({"params": params}, x)
    assert result.dtype == dtype
    # The rounded mean is wrong by up to `ratio` units in the last place, times the scale.
    tolerance = 3e-7 * (1 + ratio) if dtype == "float32" else 2**-7
    np.testing.assert_allclose(result.astype(np.float32), expected, rtol=tolerance, atol=tolerance)


def test_layer_norm_has_the_parameters_and_gradients_of_flax() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 7, 8))
    ours, theirs = layers.LayerNorm(1e-5, jnp.float32), nn.LayerNorm(1e-5, use_fast_variance=False)
    variables = ours.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(1), x))

    def loss(module: Any, variables: Any, x: jax.Array) -> jax.Array:
        return jnp.sin(module.apply(variables, x)).sum()

    results = [jax.grad(loss, (1, 2))(module, variables, x) for module in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), *results)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 1, 1, 3), (1, 3)])
def test_batch_norm_in_training_needs_two_values_per_channel(shape: tuple[int, ...]) -> None:
    """One value of a channel normalises to the bias; torch's `batch_norm` refuses it too."""
    x = jnp.ones(shape)
    training, evaluation = (layers.BatchNorm(use_running_average=off) for off in (False, True))
    variables = training.init(jax.random.key(0), x)
    message = f"two values per channel, got an input of shape {re.escape(str([*shape]))} for"
    with pytest.raises(errors.UserError, match=message):
        training.apply(variables, x, mutable=["batch_stats"])
    assert cast("jax.Array", evaluation.apply(variables, x)).shape == shape


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (1, 2, 1, 3), (2, 3)])
def test_batch_norm_of_two_values_is_plus_and_minus_one(shape: tuple[int, ...]) -> None:
    x = jnp.arange(6.0).reshape(shape)
    module = layers.BatchNorm(use_running_average=False, epsilon=0.0)
    variables = module.init(jax.random.key(0), x)
    y, _ = module.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(np.reshape(y, (2, 3)), [[-1.0] * 3, [1.0] * 3], rtol=1e-6)


def test_batch_norm_in_float64_keeps_the_dtype_of_the_running_statistics() -> None:
    module = layers.BatchNorm(use_running_average=False, dtype=jnp.float64)
    with jax.enable_x64(True):
        x = jnp.ones((2, 3))
        variables = module.init(jax.random.key(0), x)
        y, updates = module.apply(variables, x, mutable=["batch_stats"])
    assert cast("jax.Array", y).dtype == "float64"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"float32"}


def test_dropout_draws_the_random_numbers_of_flax() -> None:
    x = jnp.ones((4, 3, 5))
    for shared in ((), (1, -1)):
        options: dict[str, Any] = {"broadcast_dims": shared, "deterministic": False}
        ours, theirs = (kind(0.3, **options) for kind in (dropout.Dropout, nn.Dropout))
        rngs = {"dropout": jax.random.key(1)}
        drawn, expected = (np.asarray(one.apply({}, x, rngs=rngs)) for one in (ours, theirs))
        np.testing.assert_array_equal(drawn, expected)
