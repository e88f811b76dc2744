"""Tests of local response normalisation against a loop over the channels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnn_jax import ops

KRIZHEVSKY: dict[str, Any] = {
    "size": 5,
    "alpha": 1e-4,
    "beta": 0.75,
    "k": 2.0,
    "divide_by_size": False,
}
# Parameters that differ in every option. All but the first affect activations of size 1 visibly.
CASES: dict[str, dict[str, Any]] = {
    "of the paper": KRIZHEVSKY,
    "of torch": {"size": 5, "alpha": 0.3, "beta": 0.75, "k": 1.0, "divide_by_size": True},
    "even": {"size": 4, "alpha": 0.3, "beta": 0.5, "k": 2.0, "divide_by_size": True},
    "two": {"size": 2, "alpha": 0.3, "beta": 0.5, "k": 2.0, "divide_by_size": False},
    "alone": {"size": 1, "alpha": 2.0, "beta": 1.0, "k": 0.5, "divide_by_size": False},
    "more than there are": {
        "size": 19,
        "alpha": 0.1,
        "beta": 0.75,
        "k": 1.0,
        "divide_by_size": True,
    },
}
each_case = pytest.mark.parametrize("name", CASES)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def loop_over_channels(
    x: np.ndarray, *, size: int, alpha: float, beta: float, k: float, divide_by_size: bool
) -> np.ndarray:
    y = np.empty_like(x)
    for i in range(x.shape[-1]):
        neighbours = range(i - size // 2, i - size // 2 + size)
        near = [x[..., j] ** 2 for j in neighbours if 0 <= j < x.shape[-1]]
        scale = alpha / size if divide_by_size else alpha
        y[..., i] = x[..., i] / (k + scale * sum(near)) ** beta
    return y


@each_case
def test_values_equal_a_loop(name: str) -> None:
    x, options = images(2, 3, 4, 7), CASES[name]
    with jax.enable_x64(True):
        result = ops.local_response_norm(jnp.asarray(x), **options)
        compiled = jax.jit(lambda x: ops.local_response_norm(x, **options))(x)
    for y in (result, compiled):
        np.testing.assert_allclose(y, loop_over_channels(x, **options), rtol=1e-13, strict=True)


@pytest.mark.parametrize(
    ("divide_by_size", "expected"),
    [
        # The middle one of five channels of ones is 1 / (1 + 5) or 1 / (1 + 5 / 5).
        (False, [1 / 4, 1 / 5, 1 / 6, 1 / 5, 1 / 4]),
        (True, [1 / 1.6, 1 / 1.8, 1 / 2, 1 / 1.8, 1 / 1.6]),
    ],
)
def test_both_conventions_of_alpha(divide_by_size: bool, expected: list[float]) -> None:
    y = ops.local_response_norm(
        jnp.ones((1, 1, 1, 5)), size=5, alpha=1, beta=1, k=1, divide_by_size=divide_by_size
    )
    np.testing.assert_allclose(y[0, 0, 0], expected, rtol=1e-6)


def test_even_window_has_one_more_channel_before_than_after() -> None:
    """torch pads `size // 2` channels before and `(size - 1) // 2` after."""
    x = jnp.zeros((1, 1, 1, 6)).at[..., 2].set(1.0)
    y = ops.local_response_norm(x + 1e-3, size=2, alpha=1.0, beta=1.0, k=1.0, divide_by_size=False)
    np.testing.assert_array_equal(np.flatnonzero(y[0, 0, 0] / (x + 1e-3) < 0.9), [2, 3])


@pytest.mark.parametrize("name", ["of torch", pytest.param("even", marks=pytest.mark.slow)])
def test_derivatives_equal_finite_differences(name: str) -> None:
    def f(x: jax.Array) -> jax.Array:
        return ops.local_response_norm(x, **CASES[name])

    with jax.enable_x64(True):
        check_grads(jax.jit(f), (jnp.asarray(images(1, 2, 1, 7)),), 2, modes=["fwd", "rev"])


def test_vmap_matches_a_batch() -> None:
    x = jnp.asarray(images(3, 2, 2, 7), jnp.float32)
    result = jax.vmap(lambda x: ops.local_response_norm(x, **KRIZHEVSKY))(x)
    np.testing.assert_allclose(result, ops.local_response_norm(x, **KRIZHEVSKY), rtol=1e-6)


def test_gradient_at_zero_is_finite() -> None:
    x = jnp.zeros((1, 1, 1, 4))
    gradient = jax.grad(lambda x: ops.local_response_norm(x, **KRIZHEVSKY).sum())(x)
    np.testing.assert_allclose(gradient, np.full(x.shape, 2**-0.75), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_dtype_is_kept_and_only_the_result_is_rounded(dtype: str, scale: float) -> None:
    """With scale 1000, the squares overflow in float16."""
    x = jnp.asarray(images(2, 3, 3, 16) * scale, dtype)
    y, pull_back = jax.vjp(lambda x: ops.local_response_norm(x, **CASES["of torch"]), x)
    (gradient,) = pull_back(jnp.ones_like(y))
    assert y.dtype == gradient.dtype == dtype
    expected = loop_over_channels(np.asarray(x, "f8"), **CASES["of torch"])
    np.testing.assert_allclose(np.asarray(y, "f8"), expected, rtol=10 * float(jnp.finfo(dtype).eps))


def test_nan_and_infinity_affect_only_their_neighbours() -> None:
    for bad in (np.nan, np.inf):
        x = jnp.ones((1, 1, 1, 9)).at[..., 1].set(bad)
        y = ops.local_response_norm(x, **KRIZHEVSKY)[0, 0, 0]
        assert np.isfinite(y[4:]).all()
        assert np.isnan(y[1])


@pytest.mark.parametrize("change", [{"size": 0}, {"alpha": -1e-4}, {"k": 0.0}, {"k": -1.0}])
def test_invalid_parameters_are_errors(change: dict[str, float]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        ops.local_response_norm(jnp.ones((1, 1, 1, 4)), **KRIZHEVSKY | change)


def test_divide_by_size_is_a_required_argument() -> None:
    norm: Any = ops.local_response_norm
    with pytest.raises(TypeError, match="divide_by_size"):
        norm(jnp.ones((1, 1, 1, 4)), size=5, alpha=1e-4, beta=0.75, k=2.0)
