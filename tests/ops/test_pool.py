"""Tests of pooling against loops over the windows."""

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
from tests.ops.pools import ON_CPU, POOLS, Pair, each_pool, exact_modes, pair

# Window, stride and padding.
GEOMETRIES: list[tuple[Pair, Pair, Pair]] = [
    (2, 2, 0),
    (3, 3, 0),  # Pixels left over at the end are dropped.
    ((2, 3), (2, 3), 0),
    (2, 1, 0),  # Overlapping windows.
    (3, 2, 1),
    ((3, 2), (1, 2), (1, 0)),
    (2, 3, 0),  # Pixels between the windows.
    (1, 2, 0),
    (5, 1, 2),  # The largest window that is not passed to `jax.lax`.
    ((5, 6), 1, (2, 3)),  # A larger one.
]


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


def plain_gradient(case: "Case", x: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """Returns the gradient of the images; that of a maximum goes to the first of equal pixels."""
    (rows, columns), (down, right), (top, left) = case.window, case.stride, case.padding
    filler = POOLS[case.kind][2]
    x = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=filler)
    dx: np.ndarray = np.zeros(x.shape)
    for i, j in product(*map(range, cotangent.shape[1:3])):
        place = np.s_[:, i * down : i * down + rows, j * right : j * right + columns]
        dy, part = cotangent[:, i, j], x[place]
        if case.kind == "avg":
            dx[place] += dy[:, None, None] / (rows * columns)
        else:
            first = part.reshape(len(x), rows * columns, -1).argmax(1)
            selected = np.eye(rows * columns)[first] * dy[..., None]  # [B, C, rows * columns]
            dx[place] += selected.swapaxes(1, 2).reshape(part.shape)
    return dx[:, top : dx.shape[1] - top, left : dx.shape[2] - left]


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
    """Compares output and gradient with NumPy's, and the tangent with the gradient.

    Without a primitive for the operation, the tangent of a maximum has less precision.
    """
    kind, window, stride, padding, size, values = case
    rng = np.random.default_rng(0)
    x, tangent = rng.normal(size=(2, 2, *size, 3))
    x = VALUES[values](x)
    expected = plain_pool(x, kind, window, stride, padding)
    cotangent = np.random.default_rng(1).normal(size=expected.shape)

    def ours(x: jax.Array) -> jax.Array:
        return POOLS[kind][0](x, window, stride, padding)

    def compute(x: jax.Array, cotangent: jax.Array, tangent: jax.Array) -> tuple[Any, ...]:
        y, pull_back = jax.vjp(ours, x)
        if "fwd" not in exact_modes(kind):
            return y, *pull_back(cotangent)
        along = jnp.vdot(jax.jvp(ours, (x,), (tangent,))[1], cotangent)
        return y, *pull_back(cotangent), along

    with jax.enable_x64(True):
        arrays = jax.jit(compute)(*map(jnp.asarray, (x, cotangent, tangent)))
    gradient = plain_gradient(case, x, cotangent)
    truth = expected, gradient, np.vdot(gradient, tangent)
    for result, exact in zip(arrays, truth, strict=False):
        np.testing.assert_allclose(
            result, exact, rtol=1e-12, atol=1e-11, err_msg=f"{case}", strict=True
        )


@pytest.mark.parametrize(
    "case",
    [
        Case("max", (3, 3), (2, 2), (1, 1), (8, 7), "after a ReLU"),
        Case("max", (2, 2), (1, 1), (0, 0), (5, 6), "small integers"),
        Case("max", (3, 2), (1, 2), (3, 0), (4, 5), "distinct"),  # Windows of padding only.
        Case("max", (2, 1), (3, 4), (1, 1), (7, 8), "distinct"),  # Pixels between the windows.
        Case("avg", (2, 1), (3, 4), (1, 1), (7, 8), "distinct"),
        Case("avg", (3, 2), (1, 2), (4, 3), (4, 5), "distinct"),
        *(
            Case(kind, pair(window), pair(stride), pair(padding), (7, 6), "distinct")
            for kind, (window, stride, padding) in product(POOLS, GEOMETRIES)
        ),
    ],
    ids=str,
)
def test_values_and_derivatives_are_those_of_numpy(case: Case) -> None:
    check(case)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(case=cases())
def test_random_values_and_derivatives_are_those_of_numpy(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=120, derandomize=True, deadline=None)
@given(case=cases())
def test_many_random_values_and_derivatives_are_those_of_numpy(case: Case) -> None:
    check(case)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(case=cases(), channels=st.sampled_from([3, 16, 37]))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_native_maxima_and_gradients_are_those_of_numpy(
    dtype: str, case: Case, channels: int
) -> None:
    _, window, stride, padding, size, values = case
    drawn = VALUES[values](np.random.default_rng(0).normal(size=(2, *size, channels)))
    x = jnp.asarray(drawn, dtype)

    @jax.jit
    def compute(x: jax.Array) -> tuple[jax.Array, ...]:
        y, pull_back = jax.vjp(lambda x: ops.max_pool(x, window, stride, padding), x)
        cotangent = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), dtype)
        return y, *pull_back(cotangent), cotangent

    y, gradient, cotangent = (np.asarray(one, np.float64) for one in compute(x))
    wide = np.asarray(x, np.float64)
    np.testing.assert_array_equal(y, plain_pool(wide, "max", window, stride, padding))
    exact_gradient = plain_gradient(case._replace(kind="max"), wide, cotangent)
    # 16-bit gradients are summed in float32 and rounded once. Off a CPU they are summed in 16 bits.
    windows = window[0] * window[1]
    tolerance = {"float32": 1e-6, "bfloat16": 2**-8}[dtype]
    largest = 0 if ON_CPU or dtype == "float32" else np.abs(cotangent).max()
    np.testing.assert_allclose(
        gradient,
        exact_gradient,
        rtol=tolerance,
        atol=1e-6 + tolerance * windows**2 * largest,
    )


@pytest.mark.parametrize("values", [*VALUES, "minus infinity", "minus infinity or zero"])
def test_gradient_goes_to_the_first_of_several_maxima(values: str) -> None:
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
    selected = np.asarray(number) * (expected if ON_CPU else np.where(x == -np.inf, 0, expected))
    np.testing.assert_array_equal(tangent, plain_pool(selected, "avg", 2, None, 0) * 4)


def test_nan_is_propagated() -> None:
    x = np.zeros((1, 4, 6, 2))
    x[0, 2, 3, 1] = np.nan
    for pool, _, _ in POOLS.values():
        y = pool(jnp.asarray(x), 2)
        np.testing.assert_array_equal(np.argwhere(np.isnan(y)), [[0, 1, 1, 1]])


@each_pool
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_is_kept_and_values_are_accurate(kind: str, padding: int, dtype: str) -> None:
    """The mean and its gradient are rounded twice, at the sum and at the division, not 25 times."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.permutation(200).reshape(1, 10, 10, 2), dtype)  # Exact in bfloat16.

    def pool(x: jax.Array) -> jax.Array:
        return POOLS[kind][0](x, 5, 1, padding)

    (y, pull_back), (exact, pull_back_exact) = (jax.vjp(pool, x.astype(t)) for t in (dtype, "f4"))
    cotangent = jnp.asarray(rng.uniform(0.5, 1.5, y.shape), dtype)
    ours, expected = (y, *pull_back(cotangent)), (exact, *pull_back_exact(cotangent.astype("f4")))
    for result, truth in zip(ours, expected, strict=True):
        assert result.dtype == dtype
        roundings = 2 if kind == "avg" else 4 if ON_CPU else 50  # Each of half an epsilon.
        tolerance = float(jnp.finfo(dtype).eps) / 2 * roundings
        np.testing.assert_allclose(result.astype("f4"), truth, rtol=tolerance)


@each_pool
@pytest.mark.parametrize(
    ("window", "dtype"), [((5, 6), "float32"), ((2, 2), "int32"), ((2, 2), "float8_e4m3fn")]
)
def test_large_windows_and_other_dtypes_are_passed_to_lax(
    kind: str, window: tuple[int, int], dtype: str
) -> None:
    x = jnp.ones((1, 8, 8, 2), dtype)
    ours = jax.make_jaxpr(lambda x: POOLS[kind][0](x, window, 2, 1))(x)
    assert str(ours) == str(jax.make_jaxpr(lambda x: lax_pool(x, kind, window, 2, 1))(x))
    assert "reduce_window" in str(ours)


def test_global_avg_pool() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 4, 2))
    with jax.enable_x64(True):
        result = jax.jit(ops.global_avg_pool)(jnp.asarray(x))
        check_grads(ops.global_avg_pool, (jnp.asarray(x),), order=1, modes=["fwd", "rev"])
    np.testing.assert_allclose(result, x.mean((1, 2)), rtol=1e-13, strict=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_global_avg_pool_sums_16_bit_inputs_in_float32(dtype: str) -> None:
    y = ops.global_avg_pool(jnp.ones((1, 80, 80, 2), dtype) * 12)  # The sum is 76800.
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, jnp.full((1, 2), 12, dtype))
