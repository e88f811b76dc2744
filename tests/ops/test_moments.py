"""Tests of rounding errors of normalisation whose mean is large, and of arrays without pixels.

The exact values are those of NumPy in float64, for the images as they are rounded to their dtype.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from cnn_jax import ops
from cnn_jax.models import layers

SHAPE = (8, 12, 13, 20)  # One vector of 16 channels, and others.
UNIT = 2.0**-24  # Relative rounding error of float32.
EPSILON = 1e-5
RATIOS = (1, 1e2, 1e3, 1e4, 1e6)  # Of mean and standard deviation.


def explicit_mesh() -> AbstractContextManager[Any]:
    """Selects the operations that JAX shards and differentiates, on one device."""
    return jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,)))


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "native": partial(ops.lowering, "native"),
    "plain": partial(ops.lowering, "plain"),
    "explicit": explicit_mesh,
}
each_context = pytest.mark.parametrize("context", CONTEXTS)


def images(dtype: str) -> Iterator[tuple[float, jax.Array]]:
    """Yields ratios of mean and deviation, and images; the first pixel may be far from all others.

    The native kernel subtracts the first pixel from all pixels.
    """
    for ratio in RATIOS:
        x = np.random.default_rng(0).normal(ratio, 1, SHAPE)
        yield ratio, jnp.asarray(x, dtype)
        x[0, 0, 0] = 0
        yield ratio, jnp.asarray(x, dtype)


def exact(x: jax.Array) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(-1, x.shape[-1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_context
def test_errors_of_moments_do_not_grow_with_the_mean(context: str, dtype: str) -> None:
    with CONTEXTS[context]():
        moments = jax.jit(lambda x: (*ops.moments(x), x.astype("float32").var((0, 1, 2))))
        for _, x in images(dtype):
            mean, variance, two_pass = map(np.asarray, moments(x))
            true_mean, true_variance = exact(x).mean(0), exact(x).var(0)
            bound = 2 * UNIT * abs(true_mean) + 1e-6 * np.sqrt(true_variance)
            assert (abs(mean - true_mean) <= bound).all()
            # In bfloat16, all pixels of a channel are equal at the largest ratios.
            error, error_of_two_passes = abs(np.stack([variance, two_pass]) - true_variance)
            assert (error <= 100 * UNIT * true_variance).all()
            assert (error <= 2e-6 * true_variance + 4 * error_of_two_passes.max()).all()


def exact_normalisation(x: np.ndarray, scale: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """Returns normalised images, and the gradients for images and scale; see `ops.channels`."""
    deviation = x - x.mean(0)
    inverse = 1 / np.sqrt(np.square(deviation).mean(0) + EPSILON)
    z = deviation * inverse
    dx = scale * inverse * (dy - dy.mean(0) - z * (dy * z).mean(0))
    return [scale * z + 0.5, dx, (dy * z).sum(0)]


@each_context
def test_errors_of_normalisation_grow_at_most_linearly_with_the_mean(context: str) -> None:
    def compute(x: jax.Array, scale: jax.Array, dy: jax.Array) -> list[jax.Array]:
        def f(x: jax.Array, scale: jax.Array) -> jax.Array:
            return ops.batch_normalize(x, scale, jnp.full(scale.shape, 0.5), EPSILON)[0]

        y, pull_back = jax.vjp(f, x, scale)
        # The tangent for `x = dy` is also the gradient: the map is its own transpose.
        return [y, *pull_back(dy), jax.jvp(f, (x, scale), (dy, jnp.zeros_like(scale)))[1]]

    rng = np.random.default_rng(1)
    scale = jnp.asarray(rng.uniform(0.5, 2, SHAPE[-1:]), jnp.float32)
    dy = jnp.asarray(rng.normal(0.1, 1, SHAPE), jnp.float32)
    with CONTEXTS[context]():
        compiled = jax.jit(compute)
        for ratio, x in images("float32"):
            y, dx, dscale, tangent = map(exact, compiled(x, scale, dy))
            truth = exact_normalisation(exact(x), np.asarray(scale, np.float64), exact(dy))
            for result, value in zip((y, dx, tangent), (*truth[:2], truth[1]), strict=True):
                error = abs(result - value).max() / abs(value).max()
                assert error < 1e-5 + 2 * UNIT * ratio
            bound = 1e-5 * abs(truth[2]).max() + 2 * UNIT * ratio * abs(exact(dy).sum(0))
            assert (abs(dscale - truth[2]) < bound).all()


@each_context
def test_evaluation_by_a_large_running_mean_has_errors_of_a_few_units(context: str) -> None:
    norm = layers.BatchNorm(use_running_average=True)
    x = jnp.asarray(np.random.default_rng(0).normal(1e4, 1, SHAPE), jnp.float32)
    mean, var = x.mean((0, 1, 2)), jnp.full(SHAPE[-1:], 1.1)
    variables = {
        "params": {"scale": jnp.full_like(mean, 1.5), "bias": jnp.zeros_like(mean)},
        "batch_stats": {"mean": mean, "var": var},
    }
    with CONTEXTS[context]():
        y = jax.jit(norm.apply)(variables, x)
    factor = 1.5 / np.sqrt(np.asarray(var, np.float64) + norm.epsilon)
    truth = (exact(x) - np.asarray(mean, np.float64)) * factor
    np.testing.assert_allclose(exact(y), truth, rtol=8 * UNIT)


def test_vmap_of_moments_keeps_the_variance() -> None:
    x = np.random.default_rng(0).normal(3000, 1, (3, 50, 20)).astype("f4")
    _, variance = jax.vmap(ops.moments)(jnp.asarray(x))
    np.testing.assert_allclose(variance, x.astype("f8").var(1), rtol=1e-5)


@each_context
@pytest.mark.parametrize("shape", [(0, 4, 4, 8), (2, 0, 20), (2, 3, 3, 0), (0, 0)])
def test_no_pixels_give_nan_and_no_channels_give_nothing(
    shape: tuple[int, ...], context: str
) -> None:
    def normalize(x: jax.Array, scale: jax.Array) -> jax.Array:
        return ops.batch_normalize(x, scale, scale, EPSILON)[0]

    x, scale = jnp.zeros(shape, jnp.float32), jnp.ones(shape[-1])
    with CONTEXTS[context]():
        for moment in jax.jit(ops.moments)(x):
            np.testing.assert_array_equal(moment, np.full(shape[-1], np.nan))
        y, pull_back = jax.vjp(jax.jit(normalize), x, scale)
        dx, dscale = pull_back(y)
    assert y.shape == dx.shape == shape
    assert dscale.shape == scale.shape


@each_context
def test_one_pixel_has_variance_zero(context: str) -> None:
    x = jnp.linspace(-3, 1e6, 20)[None]
    with CONTEXTS[context]():
        y, mean, variance = jax.jit(partial(ops.batch_normalize, epsilon=EPSILON))(x, x[0], x[0])
    np.testing.assert_array_equal(mean, x[0])
    np.testing.assert_array_equal(variance, np.zeros(20))
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("lowering", ["native", "plain"])
def test_normalisation_needs_no_rank_promotion(lowering: str) -> None:
    def f(x: jax.Array) -> jax.Array:
        y = ops.batch_normalize(x, jnp.ones(5), jnp.ones(5), EPSILON)[0]
        return jnp.sin(ops.scale_and_shift(y, *ops.moments(y))).sum()

    def second_derivative(x: jax.Array) -> jax.Array:
        return jax.jvp(jax.grad(f), (x,), (x,))[1]

    x = jax.ShapeDtypeStruct((2, 3, 4, 5), jnp.float32)
    with jax.numpy_rank_promotion("raise"), ops.lowering(lowering):
        lowered = jax.jit(second_derivative).lower(x)
    assert lowered.out_info.shape == x.shape
