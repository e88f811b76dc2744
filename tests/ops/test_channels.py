"""Tests of batch normalisation and of the moments of channels, against plain NumPy and JAX code."""

from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnn_jax import ops

# Few and many channels, as multiples of the vector size or not; few and many pixels.
SHAPES = [(2, 3, 5, 4), (3, 7, 2, 16), (2, 5, 3, 37), (16, 40, 41, 24), (9, 130), (1, 1, 1, 3)]
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}
Normalize = Callable[..., Any]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
# Without native kernels for float64, both lowerings are the same.
each_dtype = pytest.mark.parametrize(
    ("dtype", "lowering"),
    [("float64", "native"), *product(("float32", "bfloat16"), ("native", "xla"))],
)


def draw(shape: tuple[int, ...], dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, shape), dtype)


def normalize(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return ops.batch_normalize(x, scale, shift, 1e-3)[0]


def normalize_and_return_moments(x: jax.Array, scale: jax.Array, shift: jax.Array) -> Any:
    return ops.batch_normalize(x, scale, shift, 1e-3)


def normalize_in_steps(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Normalises by `moments` and `scale_and_shift`, to test the transpose rule of each."""
    mean, variance = ops.moments(x)
    factor = scale * jax.lax.rsqrt(variance + 1e-3)
    return ops.scale_and_shift(x, factor, shift - mean * factor)


def normalize_plainly(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    wide = x.astype(scale.dtype)
    pixels = tuple(range(x.ndim - 1))
    deviation = (wide - wide.mean(pixels)) / jnp.sqrt(wide.var(pixels) + 1e-3)
    return (scale * deviation + shift).astype(x.dtype)


@each_dtype
@each_shape
def test_moments_match_numpy(shape: tuple[int, ...], dtype: str, lowering: str) -> None:
    with jax.enable_x64(True), ops.lowering(lowering):
        x = draw(shape, dtype)
        mean, variance = jax.jit(ops.moments)(x)
        exact = np.asarray(x, np.float64).reshape(-1, shape[-1])
        assert mean.dtype == variance.dtype == jnp.promote_types(dtype, "float32")
        tolerance = min(TOLERANCES[dtype], 1e-5)  # 16-bit inputs are summed in float32.
        np.testing.assert_allclose(mean, exact.mean(0), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(variance, exact.var(0), rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("shape", "dtype", "lowering"),
    [
        *product(SHAPES[:-1], ("float32", "bfloat16"), ("native",)),  # The last one has one pixel.
        # Only the native kernels treat numbers of channels and pixels differently.
        *product((SHAPES[0], SHAPES[4]), ("float32", "bfloat16"), ("xla",)),
        *product((SHAPES[0], SHAPES[4]), ("float64",), ("native",)),
    ],
    ids=str,
)
@pytest.mark.parametrize("ours", [normalize, normalize_in_steps])
def test_normalisation_and_its_gradients_match_plain_code(
    shape: tuple[int, ...], dtype: str, lowering: str, ours: Normalize
) -> None:
    def compute(x: jax.Array, cotangent: jax.Array, *parameters: jax.Array) -> Any:
        y, pull_back = jax.vjp(ours, x, *parameters)
        return y, *pull_back(cotangent)

    with jax.enable_x64(True), ops.lowering(lowering):
        x, channels = draw(shape, dtype), shape[-1:]
        wide = jnp.promote_types(dtype, "float32")
        scale, shift = (draw(channels, "float64") ** power for power in (1, 2))
        given = x, draw(shape[::-1], dtype).T, scale.astype(wide), shift.astype(wide)
        results = jax.jit(compute)(*given)
    truth = exact_normalisation(*(np.asarray(one, np.float64) for one in given))
    for result, exact in zip(results, truth, strict=True):
        atol = TOLERANCES[dtype] * max(np.abs(exact).max(), 1)
        np.testing.assert_allclose(np.asarray(result, np.float64), exact, rtol=0, atol=atol)


def exact_normalisation(
    x: np.ndarray, dy: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> list[np.ndarray]:
    """Returns normalised images, and the gradients of images, scale and shift."""
    pixels = tuple(range(x.ndim - 1))
    deviation = x - x.mean(pixels)
    inverse = 1 / np.sqrt(np.square(deviation).mean(pixels) + 1e-3)
    z = deviation * inverse
    dx = scale * inverse * (dy - dy.mean(pixels) - z * (dy * z).mean(pixels))
    return [scale * z + shift, dx, (dy * z).sum(pixels), dy.sum(pixels)]


@pytest.mark.parametrize(
    "ours",
    [normalize_and_return_moments, pytest.param(normalize_in_steps, marks=pytest.mark.slow)],
)
def test_derivatives_match_finite_differences(ours: Normalize) -> None:
    with jax.enable_x64(True):
        arguments = [draw(size, "float64") for size in ((2, 3, 5, 4), (4,), (4,))]
        check_grads(jax.jit(ours), arguments, order=2, modes=("fwd", "rev"), rtol=1e-4)


def test_vmap_matches_a_loop() -> None:
    x = draw((3, 4, 5, 2, 6), "float32")
    mapped = jax.vmap(ops.moments)(x)
    looped = [ops.moments(images) for images in x]
    for i, moment in enumerate(mapped):
        expected = np.stack([moments[i] for moments in looped])
        np.testing.assert_allclose(moment, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, None), (None, 0, None)], ids=str)
def test_gradients_of_vmap_match_those_of_plain_code(axes: tuple[int | None, ...]) -> None:
    """Maps before and after differentiating, as for an ensemble that is trained jointly or not."""
    shapes = [(2, 5, 3, 4), (4,), (4,)]
    with jax.enable_x64(True):
        arguments = [
            draw(shape if axis is None else (3, *shape), "float64")
            for shape, axis in zip(shapes, axes, strict=True)
        ]

        def compute(f: Normalize, *xs: jax.Array) -> Any:
            def loss(f: Normalize) -> Normalize:
                return lambda *xs: jnp.sin(f(*xs)).sum()

            gradient = jax.vmap(jax.grad(loss(f), (0, 1, 2)), axes)
            return gradient(*xs), jax.grad(loss(jax.vmap(f, axes)), (0, 1, 2))(*xs)

        results, expected = (
            jax.tree.leaves(jax.jit(lambda *xs, f=f: compute(f, *xs))(*arguments))
            for f in (normalize, normalize_plainly)
        )
        for result, exact in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, exact, rtol=0, atol=1e-10, strict=True)


def test_variance_of_equal_values_is_not_negative() -> None:
    _, variance = ops.moments(jnp.full((7, 3), 1 / 3))
    assert (variance >= 0).all()


def test_materialize_is_the_identity() -> None:
    x = draw((2, 3, 4, 5), "float32")

    def f(x: jax.Array) -> jax.Array:
        return jnp.sin(ops.materialize(x)).sum()

    np.testing.assert_array_equal(jax.jit(ops.materialize)(x), x)
    np.testing.assert_array_equal(jax.vmap(ops.materialize)(x), x)
    np.testing.assert_allclose(jax.jit(jax.grad(f))(x), jnp.cos(x), rtol=1e-6)
    _, tangent = jax.jvp(f, (x,), (x,))
    np.testing.assert_allclose(tangent, (x * jnp.cos(x)).sum(), rtol=1e-5)
