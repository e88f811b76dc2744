"""Pooling against loops over the windows, and against `jax.lax.reduce_window`."""

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from cnn_jax import ops

Pair = int | tuple[int, int]

POOLS: Mapping[str, tuple[Any, Any, float]] = {
    "max": (ops.max_pool, np.max, -np.inf),
    "avg": (ops.avg_pool, np.mean, 0.0),
}

each_pool = pytest.mark.parametrize("kind", POOLS)
each_geometry = pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [
        (2, None, 0),
        (3, None, 0),  # a rest at the borders is dropped
        ((2, 3), None, 0),
        (2, 1, 0),  # overlapping
        (3, 2, 1),
        ((3, 2), (1, 2), (1, 0)),
        (2, 3, 0),  # pixels between the windows
        (1, 2, 0),
        (5, 1, 2),  # as many pixels as are not left to XLA
        ((5, 6), 1, (2, 3)),  # more
    ],
)


def pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def plain_pool(
    x: np.ndarray, kind: str, window: Pair, stride: Pair | None, padding: Pair
) -> np.ndarray:
    _, reduce, filler = POOLS[kind]
    (rows, columns), (top, left) = pair(window), pair(padding)
    down, right = pair(window if stride is None else stride)
    x = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=filler)
    height, width = (x.shape[1] - rows) // down + 1, (x.shape[2] - columns) // right + 1
    y = np.empty((len(x), height, width, x.shape[-1]))
    for i, j in product(range(height), range(width)):
        part = x[:, i * down : i * down + rows, j * right : j * right + columns]
        y[:, i, j] = reduce(part, axis=(1, 2))
    return y


def lax_pool(
    x: jax.Array, kind: str, window: Pair, stride: Pair | None, padding: Pair
) -> jax.Array:
    strides = pair(window if stride is None else stride)
    pads = [(amount, amount) for amount in pair(padding)]
    operation: Any = {"max": lax.max, "avg": lax.add}[kind]
    total = lax.reduce_window(
        x,
        POOLS[kind][2],
        operation,
        (1, *pair(window), 1),
        (1, *strides, 1),
        ((0, 0), *pads, (0, 0)),
    )
    rows, columns = pair(window)
    return total if kind == "max" else total / (rows * columns)


@each_pool
@each_geometry
def test_pooling_equals_a_loop(kind: str, window: Pair, stride: Pair | None, padding: Pair) -> None:
    x = np.random.default_rng(0).normal(-3, 1, (2, 7, 6, 3))  # mostly negative: padding must lose
    with jax.enable_x64(True):
        result = POOLS[kind][0](jnp.asarray(x), window, stride, padding)
    expected = plain_pool(x, kind, window, stride, padding)
    np.testing.assert_allclose(result, expected, rtol=1e-14, strict=True)


@each_pool
@each_geometry
def test_gradients_equal_finite_differences(
    kind: str, window: Pair, stride: Pair | None, padding: Pair
) -> None:
    # Distinct values, far enough apart for the differences not to change which is largest.
    x = np.random.default_rng(0).permutation(2 * 5 * 6 * 2).reshape(2, 5, 6, 2) / 10

    def pool(x: Any) -> jax.Array:
        return POOLS[kind][0](x, window, stride, padding)

    with jax.enable_x64(True):
        check_grads(jax.jit(pool), (jnp.asarray(x),), order=1, modes=["fwd", "rev"])


class Case(NamedTuple):
    kind: str
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    size: tuple[int, int]
    values: str


VALUES: Mapping[str, Any] = {
    "distinct": lambda x: x,
    "small integers": np.round,
    "after a ReLU": lambda x: np.maximum(x, 0),
    "all equal": np.zeros_like,
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    window, stride, padding, more = (
        (draw(st.integers(low, high)), draw(st.integers(low, high)))
        for low, high in ((1, 5), (1, 6), (0, 6), (0, 7))
    )
    least = (max(window[i] - 2 * padding[i], 1) for i in range(2))
    rows, columns = (most + extra for most, extra in zip(least, more, strict=True))
    kind, values = draw(st.sampled_from(list(POOLS))), draw(st.sampled_from(list(VALUES)))
    return Case(kind, window, stride, padding, (rows, columns), values)


def check(case: Case) -> None:
    """Output and gradient are those of `jax.lax`, in ties too, and the tangent goes the same way.

    In ties, `jax.lax` does not take the tangent from where it sends the gradient.
    """
    kind, window, stride, padding, size, values = case
    rng = np.random.default_rng(0)
    x, tangent = rng.normal(size=(2, 2, *size, 3))

    def ours(x: jax.Array) -> jax.Array:
        return POOLS[kind][0](x, window, stride, padding)

    def compute(x: jax.Array, tangent: jax.Array) -> tuple[Any, Any]:
        y, pull_back = jax.vjp(ours, x)
        expected, pull_back_lax = jax.vjp(lambda x: lax_pool(x, kind, window, stride, padding), x)
        cotangent = jnp.asarray(np.random.default_rng(1).normal(size=y.shape))
        (gradient,), (expected_gradient,) = pull_back(cotangent), pull_back_lax(cotangent)
        along = jnp.vdot(jax.jvp(ours, (x,), (tangent,))[1], cotangent)
        return (y, gradient, along), (expected, expected_gradient, jnp.vdot(gradient, tangent))

    with jax.enable_x64(True):
        arrays = jax.jit(compute)(jnp.asarray(VALUES[values](x)), jnp.asarray(tangent))
    for result, expected in zip(*arrays, strict=True):
        np.testing.assert_allclose(
            result, expected, rtol=1e-12, atol=1e-11, strict=True, err_msg=str(case)
        )


@pytest.mark.parametrize(
    "case",
    [
        Case("max", (3, 3), (2, 2), (1, 1), (8, 7), "after a ReLU"),
        Case("max", (2, 2), (1, 1), (0, 0), (5, 6), "small integers"),
        Case("max", (3, 2), (1, 2), (3, 0), (4, 5), "distinct"),  # windows of padding alone
        Case("max", (2, 1), (3, 4), (1, 1), (7, 8), "distinct"),  # pixels between the windows
        Case("avg", (2, 1), (3, 4), (1, 1), (7, 8), "distinct"),
        Case("avg", (3, 2), (1, 2), (4, 3), (4, 5), "distinct"),
    ],
)
def test_values_and_derivatives_are_those_of_lax(case: Case) -> None:
    check(case)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(case=cases())
def test_random_values_and_derivatives_are_those_of_lax(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=120, derandomize=True, deadline=None)
@given(case=cases())
def test_many_random_values_and_derivatives_are_those_of_lax(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("values", [*VALUES, "minus infinity", "minus infinity or zero"])
def test_the_first_of_several_maxima_has_the_gradient(values: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3))
    if values in VALUES:
        x = VALUES[values](x)
    else:
        x = np.where((x < 0) | (values == "minus infinity"), -np.inf, 0.0)
    windows = x.reshape(2, 3, 2, 3, 2, 3).swapaxes(2, 3).reshape(2, 3, 3, 4, 3)
    first = np.eye(4)[windows.argmax(3)].swapaxes(3, 4)  # [B, H', W', 4, C]
    expected = first.reshape(2, 3, 3, 2, 2, 3).swapaxes(2, 3).reshape(x.shape)

    def pool(x: jax.Array) -> jax.Array:
        return ops.max_pool(x, 2)

    y, pull_back = jax.vjp(pool, jnp.asarray(x, jnp.float32))
    (gradient,) = pull_back(jnp.ones_like(y))
    np.testing.assert_array_equal(gradient, expected)
    number = jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape)
    _, tangent = jax.jvp(pool, (jnp.asarray(x, jnp.float32),), (number,))
    np.testing.assert_array_equal(tangent, plain_pool(number * expected, "avg", 2, None, 0) * 4)


def test_a_nan_stays_one() -> None:
    x = np.zeros((1, 4, 6, 2))
    x[0, 2, 3, 1] = np.nan
    for pool, _, _ in POOLS.values():
        y = pool(jnp.asarray(x), 2)
        np.testing.assert_array_equal(np.argwhere(np.isnan(y)), [[0, 1, 1, 1]])


@each_pool
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_type_is_kept_and_the_values_are_good(kind: str, padding: int, dtype: str) -> None:
    """The mean is rounded twice, as sum and as quotient, or the other way round; not 25 times."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.permutation(200).reshape(1, 10, 10, 2), dtype)  # exact in 8 bits

    def pool(x: jax.Array) -> jax.Array:
        return POOLS[kind][0](x, 5, 1, padding)

    (y, pull_back), (exact, pull_back_exact) = (jax.vjp(pool, x.astype(t)) for t in (dtype, "f4"))
    cotangent = jnp.asarray(rng.uniform(0.5, 1.5, y.shape), dtype)
    ours, expected = (y, *pull_back(cotangent)), (exact, *pull_back_exact(cotangent.astype("f4")))
    for result, truth in zip(ours, expected, strict=True):
        assert result.dtype == dtype
        tolerance = float(jnp.finfo(dtype).eps) * (1 if kind == "avg" else 2)
        np.testing.assert_allclose(result.astype("f4"), truth, rtol=tolerance)


@each_pool
@pytest.mark.parametrize(
    ("window", "dtype"), [((5, 6), "float32"), ((2, 2), "int32"), ((2, 2), "float8_e4m3fn")]
)
def test_large_windows_and_other_types_are_left_to_lax(
    kind: str, window: tuple[int, int], dtype: str
) -> None:
    x = jnp.ones((1, 8, 8, 2), dtype)
    ours = jax.make_jaxpr(lambda x: POOLS[kind][0](x, window, 2, 1))(x)
    assert str(ours) == str(jax.make_jaxpr(lambda x: lax_pool(x, kind, window, 2, 1))(x))
    assert "reduce_window" in str(ours)
