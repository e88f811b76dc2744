"""Tests of stochastic pooling and DropConnect: frequencies, gradients and evaluation."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnn_jax import ops

DRAWS = 4000
GEOMETRIES: list[tuple[Any, Any, Any]] = [
    (2, None, 0),
    (3, 2, 1),
    ((2, 3), (1, 2), (1, 0)),
    ((5, 6), 1, 0),
]
each_geometry = pytest.mark.parametrize(("window", "stride", "padding"), GEOMETRIES)


def activations(*shape: int) -> np.ndarray:
    """Returns distinct values of which a third are zeros, as after a ReLU."""
    values = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape)
    return np.maximum(values - np.prod(shape) // 3, 0) / 10


def windows(x: np.ndarray, window: Any, stride: Any, padding: Any) -> np.ndarray:
    """Returns the pixels of each window, `[B, H', W', C, kh kw]`."""
    (kh, kw), (top, left) = ((v, v) if isinstance(v, int) else v for v in (window, padding))
    down, right = (kh, kw) if stride is None else np.broadcast_to(stride, 2)
    x = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    rows = range(0, x.shape[1] - kh + 1, down)
    columns = range(0, x.shape[2] - kw + 1, right)
    parts = [
        x[:, i : i + kh, j : j + kw].reshape(len(x), kh * kw, -1) for i, j in product(rows, columns)
    ]
    return np.stack(parts, 1).reshape(len(x), len(rows), len(columns), kh * kw, -1).swapaxes(3, 4)


@each_geometry
def test_evaluation_returns_the_weighted_mean(window: Any, stride: Any, padding: Any) -> None:
    x = activations(2, 7, 6, 3)
    x[0, :3, :3] = 0  # Windows of zeros.
    parts = windows(x, window, stride, padding)
    total = parts.sum(-1)
    expected = np.divide((parts**2).sum(-1), total, out=np.zeros_like(total), where=total > 0)
    with jax.enable_x64(True):
        result = ops.stochastic_pool(jnp.asarray(x), window, stride, padding, key=None)
    np.testing.assert_allclose(result, expected, rtol=1e-13, strict=True)


@pytest.mark.parametrize("key", [None, 0])
def test_ceil_mode_pads_at_the_bottom_and_at_the_right(key: int | None) -> None:
    prng = None if key is None else jax.random.key(key)
    x = jnp.asarray(activations(2, 6, 5, 3), jnp.float32)
    found = ops.stochastic_pool(x, 3, 2, key=prng, ceil_mode=True)
    expected = ops.stochastic_pool(x, 3, 2, ((0, 1), (0, 0)), key=prng)
    np.testing.assert_allclose(found, expected, rtol=1e-6, strict=True)


@each_geometry
def test_training_draws_pixels_of_the_window(window: Any, stride: Any, padding: Any) -> None:
    x = activations(2, 7, 6, 3)
    parts = windows(x, window, stride, padding)

    def pool(x: jax.Array, seed: int) -> jax.Array:
        return ops.stochastic_pool(x, window, stride, padding, key=jax.random.key(seed))

    with jax.enable_x64(True):
        compiled = jax.jit(pool)
        first, again, other = (np.asarray(compiled(x, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[..., None] == parts).any(-1).all()
    np.testing.assert_array_equal(first == 0, parts.sum(-1) == 0)  # A zero is never drawn.


def test_frequencies_are_proportional_to_the_values() -> None:
    """Each count is binomial; it must lie within five standard deviations of its mean."""
    x = np.array([[1, 0, 5, 2], [3, 4, 0, 0]], np.float32)[None, ..., None]

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        return ops.stochastic_pool(jnp.asarray(x), 2, 1, key=key)[0, 0, :, 0]

    samples = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), DRAWS)))
    for column, values in enumerate(([1, 0, 3, 4], [0, 5, 4, 0], [5, 2, 0, 0])):
        for value in values:
            p = value / sum(values)
            frequency = (samples[:, column] == value).mean()
            assert abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS), (column, value)
    left, right = samples[:, 0] == 4, samples[:, 1] == 4  # The same pixel in two windows.
    expected = 4 / 8 * 4 / 9
    assert abs((left & right).mean() - expected) <= 5 * np.sqrt(expected / DRAWS)


def test_gradient_goes_to_the_drawn_pixel() -> None:
    x = activations(2, 6, 6, 3)
    x[0, :2, :2] = 0
    key = jax.random.key(3)
    with jax.enable_x64(True):
        y, pull_back = jax.vjp(lambda x: ops.stochastic_pool(x, 2, key=key), jnp.asarray(x))
        weights = 1 + np.random.default_rng(1).random(y.shape)
        (gradient,) = pull_back(jnp.asarray(weights))
    upsampled, weights = (np.repeat(np.repeat(a, 2, 1), 2, 2) for a in (np.asarray(y), weights))
    expected = np.where((x == upsampled) & (x > 0), weights, 0)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("key", [pytest.param(None, marks=pytest.mark.slow), 0])
def test_derivatives_equal_finite_differences(key: int | None) -> None:
    """The drawn pixel depends on the values too, but not for the small differences used here."""
    x = 1 + activations(1, 4, 5, 2)
    keys = None if key is None else jax.random.key(key)
    with jax.enable_x64(True):
        f = jax.jit(lambda x: ops.stochastic_pool(x, 3, 2, 1, key=keys))
        check_grads(f, (jnp.asarray(x),), 1 + (key is None), modes=["fwd", "rev"])


@pytest.mark.parametrize("key", [None, 0])
def test_gradient_of_windows_of_zeros_is_zero(key: int | None) -> None:
    keys = None if key is None else jax.random.key(key)
    f = jax.value_and_grad(lambda x: ops.stochastic_pool(x, 2, key=keys).sum())
    value, gradient = f(jnp.zeros((1, 4, 4, 2)))
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("key", [None, 0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_is_kept(key: int | None, dtype: str) -> None:
    """The squares of the values overflow in float16."""
    x = jnp.full((1, 4, 4, 2), 400, dtype)
    y = ops.stochastic_pool(x, 2, key=None if key is None else jax.random.key(key))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, jnp.full((1, 2, 2, 2), 400, dtype))


@pytest.mark.parametrize("key", [None, 0])
def test_nan_is_propagated(key: int | None) -> None:
    x = jnp.ones((1, 4, 4, 1)).at[0, 1, 2, 0].set(np.nan)
    y = ops.stochastic_pool(x, 2, key=None if key is None else jax.random.key(key))
    np.testing.assert_array_equal(np.isnan(y[0, ..., 0]), [[False, True], [False, False]])


def test_window_larger_than_the_padded_image_is_an_error() -> None:
    for key in (None, jax.random.key(0)):
        with pytest.raises(ValueError, match=r"\(5, 5\) pixels.*\(2, 8\).*padding 1"):
            ops.stochastic_pool(jnp.ones((1, 2, 8, 1)), 5, 1, 1, key=key)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_weights_are_dropped_at_the_rate_and_others_scaled(rate: float) -> None:
    kernel = np.random.default_rng(0).uniform(1, 2, (40, 100)).astype("f4")

    def drop(key: jax.Array) -> jax.Array:
        return ops.drop_connect(jnp.asarray(kernel), rate, key)

    result = np.asarray(jax.jit(drop)(jax.random.key(0)))
    kept = result != 0
    np.testing.assert_allclose(result, np.where(kept, kernel / (1 - rate), 0), rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate) / kernel.size)
    assert abs(1 - kept.mean() - rate) <= 5 * deviation
    np.testing.assert_array_equal(result, jax.jit(drop)(jax.random.key(0)))
    np.testing.assert_allclose(result, drop(jax.random.key(0)), rtol=1e-6)


def test_mean_over_many_masks_is_the_kernel() -> None:
    kernel = jnp.asarray([[1.0, -2.0], [3.0, 0.5]])
    keys = jax.random.split(jax.random.key(0), DRAWS)
    masked = np.asarray(jax.vmap(ops.drop_connect, (None, None, 0))(kernel, 0.25, keys))
    assert masked.shape == (DRAWS, 2, 2)
    assert len(np.unique(masked != 0, axis=0)) == 2**4  # Each weight has its own mask.
    deviations = np.abs(kernel) * np.sqrt(0.25 / 0.75 / DRAWS)
    np.testing.assert_array_less(np.abs(masked.mean(0) - kernel), 5 * deviations)


def test_gradient_of_dropped_weights_is_zero() -> None:
    kernel = np.random.default_rng(0).uniform(1, 2, (4, 5))
    with jax.enable_x64(True):
        f = jax.jit(lambda kernel: ops.drop_connect(kernel, 0.5, jax.random.key(0)))
        check_grads(f, (jnp.asarray(kernel),), 1, modes=["fwd", "rev"])
        gradient = jax.grad(lambda kernel: f(kernel).sum())(jnp.asarray(kernel))
        np.testing.assert_array_equal(gradient, np.where(np.asarray(f(kernel)) != 0, 2.0, 0.0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_keep_their_dtype(dtype: str) -> None:
    assert ops.drop_connect(jnp.ones((3, 4), dtype), 0.5, jax.random.key(0)).dtype == dtype


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, float("nan")])
def test_rate_out_of_range_is_an_error(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate.*{rate}"):
        ops.drop_connect(jnp.ones((2, 2)), rate, jax.random.key(0))
