"""Tests of pooling against loops over the windows."""

import math
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
# The docstring of `ops.pool` states what holds in the primitives and what holds elsewhere.
ON_CPU = jax.default_backend() == "cpu"

POOLS: Mapping[str, tuple[Any, Any, float]] = {
    "max": (ops.max_pool, np.max, -np.inf),
    "avg": (ops.avg_pool, np.mean, 0.0),
}

each_pool = pytest.mark.parametrize("kind", POOLS)
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


def exact_modes(kind: str) -> list[str]:
    """Returns the modes of differentiation that are exact in float64."""
    return ["fwd", "rev"] if kind == "avg" or ON_CPU else ["rev"]


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


def number_of_outputs_in_torch(size: int, window: int, stride: int, padding: int) -> int:
    """Returns the number of outputs with `ceil_mode`, by the documentation of torch's pooling."""
    count = math.ceil((size + 2 * padding - window) / stride) + 1
    while (count - 1) * stride >= size + padding:
        count -= 1
    return count


def windows_of(axis: tuple[int, int, int, int], ceil_mode: bool) -> list[range]:
    """Returns the pixel indices of each window, including those outside of the image."""
    size, window, stride, padding = axis
    count = (
        number_of_outputs_in_torch(*axis)
        if ceil_mode
        else (size + 2 * padding - window) // stride + 1
    )
    starts = [output * stride - padding for output in range(count)]
    return [range(start, start + window) for start in starts]


def clipped_pool(
    x: np.ndarray, kind: str, window: Pair, stride: Pair, padding: Pair, ceil_mode: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pools the pixels inside the image, by a loop over the windows.

    Returns:
      The maximum or the sum of each window `[B, H', W', C]`; the number of its pixels in the image
      `[H', W', 1]`; and the number of its pixels in the padded image `[H', W', 1]`.
    """
    geometry = zip(x.shape[1:3], *map(pair, (window, stride, padding)), strict=True)
    rows, columns = (windows_of(axis, ceil_mode) for axis in geometry)
    y = np.empty((len(x), len(rows), len(columns), x.shape[-1]))
    counts = np.empty((2, len(rows), len(columns), 1))

    def inside(places: range, size: int, extra: int) -> range:
        first = max(places.start, -extra)
        return range(first, max(first, min(places.stop, size + extra)))

    for i, j in product(range(len(rows)), range(len(columns))):
        for k, extras in enumerate((pair(padding), (0, 0))):
            down = inside(rows[i], x.shape[1], extras[0])
            across = inside(columns[j], x.shape[2], extras[1])
            counts[k, i, j] = len(down) * len(across)
        part = x[:, down.start : down.stop, across.start : across.stop]
        y[:, i, j] = part.max((1, 2), initial=-np.inf) if kind == "max" else part.sum((1, 2))
    return y, counts[1], counts[0]


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


# Size, window, stride, padding, and the number of outputs in torch without and with `ceil_mode`.
OUTPUTS = [
    (55, 3, 2, 0, 27, 27),  # AlexNet
    (112, 3, 2, 0, 55, 56),  # GoogLeNet
    (14, 3, 2, 0, 6, 7),
    (32, 3, 2, 0, 15, 16),  # cuda-convnet
    (54, 3, 2, 0, 26, 27),  # SqueezeNet 1.0
    (7, 3, 2, 1, 4, 4),
    (6, 3, 2, 1, 3, 4),  # The last window starts at the last pixel.
    (5, 2, 3, 1, 2, 2),  # A third window would start in the padding.
    (7, 2, 2, 1, 4, 4),
    (3, 1, 3, 0, 1, 1),  # A second window would start after the image.
    (5, 1, 2, 1, 4, 3),  # The window that lies only in the padding is dropped.
    (2, 3, 2, 0, 0, 1),  # The image is smaller than the window.
]


@each_pool
@pytest.mark.parametrize(("size", "window", "stride", "padding", "floor", "ceil"), OUTPUTS)
def test_number_of_outputs_matches_torch(
    kind: str, size: int, window: int, stride: int, padding: int, floor: int, ceil: int
) -> None:
    x = jax.ShapeDtypeStruct((1, size, 7, 1), jnp.float32)

    def outputs(ceil_mode: bool) -> tuple[int, ...]:
        geometry = (window, 1), (stride, 1), (padding, 0)
        pool = POOLS[kind][0]
        shape: tuple[int, ...] = jax.eval_shape(
            lambda x: pool(x, *geometry, ceil_mode=ceil_mode), x
        ).shape
        return shape

    assert outputs(ceil_mode=True) == (1, ceil, 7, 1)
    if floor:
        assert outputs(ceil_mode=False) == (1, floor, 7, 1)


each_ceil_geometry = pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [
        (3, 2, 0),
        (3, 2, 1),
        (2, 2, 1),
        ((3, 2), (2, 3), (1, 0)),
        (2, 4, 1),  # Pixels between the windows.
        (1, 3, 0),  # The pixels left over are dropped even with `ceil_mode`.
        (4, 3, 2),
        ((8, 6), (2, 1), (1, 2)),  # Larger than some images; passed to `jax.lax`.
    ],
)


@each_ceil_geometry
@pytest.mark.parametrize("size", [(7, 6), (8, 5)])
def test_ceil_mode_matches_a_loop_over_the_pixels_in_the_image(
    window: Pair, stride: Pair, padding: Pair, size: tuple[int, int]
) -> None:
    x = np.random.default_rng(0).normal(-3, 1, (2, *size, 3))
    geometry = window, stride, padding
    largest, _, _ = clipped_pool(x, "max", *geometry, True)
    total, real, padded = clipped_pool(x, "avg", *geometry, True)
    with jax.enable_x64(True):

        @jax.jit
        def compute(images: jax.Array) -> tuple[jax.Array, ...]:
            return (
                ops.max_pool(images, *geometry, ceil_mode=True),
                ops.avg_pool(images, *geometry, ceil_mode=True),
                ops.avg_pool(images, *geometry, ceil_mode=True, count_include_pad=False),
            )

        results = compute(jnp.asarray(x))
    for result, expected in zip(results, (largest, total / padded, total / real), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-14, strict=True)


@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [(3, 1, 1), (3, 2, 1), ((2, 5), (1, 2), (1, 3)), (2, 2, 0), ((5, 6), 1, (2, 3))],
)
def test_count_include_pad(window: Pair, stride: Pair, padding: Pair) -> None:
    x = np.random.default_rng(0).normal(-3, 1, (2, 7, 6, 3))
    total, real, padded = clipped_pool(x, "avg", window, stride, padding, False)
    with jax.enable_x64(True):

        @jax.jit
        def compute(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            without = ops.avg_pool(images, window, stride, padding, count_include_pad=False)
            return without, ops.avg_pool(images, window, stride, padding)

        without, included = compute(jnp.asarray(x))
    np.testing.assert_allclose(without, total / real, rtol=1e-14, strict=True)
    np.testing.assert_allclose(included, total / padded, rtol=1e-14, strict=True)


@each_pool
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 2, 0), ((3, 2), (2, 3), (1, 0)), ((7, 5), (2, 1), (1, 2))]
)
def test_gradients_with_ceil_mode_equal_finite_differences(
    kind: str, window: Pair, stride: Pair, padding: Pair
) -> None:
    x = np.random.default_rng(0).permutation(6 * 5 * 2).reshape(1, 6, 5, 2) / 10
    options = {} if kind == "max" else {"count_include_pad": False}

    def pool(x: Any) -> jax.Array:
        return POOLS[kind][0](x, window, stride, padding, ceil_mode=True, **options)

    with jax.enable_x64(True):
        check_grads(jax.jit(pool), (jnp.asarray(x),), order=1, modes=exact_modes(kind))


@each_pool
@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [((3, 2), (1, 2), (3, 0)), (2, 1, 3), (1, 2, 1), ((2, 1), (3, 4), (2, 1)), (3, 5, 4)],
)
def test_ceil_mode_with_windows_of_padding_only(
    kind: str, window: Pair, stride: Pair, padding: Pair
) -> None:
    """Such windows at the top and at the left are kept; torch and Caffe do not allow them."""
    x = np.random.default_rng(0).permutation(2 * 4 * 5 * 2).reshape(2, 4, 5, 2) / 10
    expected, _, padded = clipped_pool(x, kind, window, stride, padding, True)
    if kind == "avg":
        expected = expected / padded

    def pool(x: Any) -> jax.Array:
        return POOLS[kind][0](x, window, stride, padding, ceil_mode=True)

    with jax.enable_x64(True):
        result, pull_back = jax.vjp(jax.jit(pool), jnp.asarray(x))
        (gradient,) = pull_back(jnp.where(jnp.isfinite(result), 1.0, 0.0))
    np.testing.assert_allclose(result, expected, rtol=1e-14, strict=True)
    if kind == "max":
        assert np.asarray(gradient).sum() == np.isfinite(expected).sum()


def test_ceil_mode_changes_nothing_if_the_stride_divides() -> None:
    plain, ceil = (
        jax.make_jaxpr(lambda x, mode=mode: ops.max_pool(x, 3, 2, 1, ceil_mode=mode))(
            jnp.ones((2, 7, 9, 3))
        )
        for mode in (False, True)
    )
    assert str(plain) == str(ceil)


@each_pool
def test_window_larger_than_the_padded_image_is_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match=r"\(5, 3\) pixels.*image of \(2, 8\).*padding \(1, 0\)"):
        POOLS[kind][0](jnp.ones((1, 2, 8, 1)), (5, 3), 2, (1, 0))
    with pytest.raises(ValueError, match=r"\(5, 5\) pixels.*image of \(3, 8\)"):
        POOLS[kind][0](jnp.ones((1, 3, 8, 1)), 5, 2, ceil_mode=True)


def test_padding_as_large_as_the_window_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"got padding 2 and a window of 2 pixels"):
        ops.avg_pool(jnp.ones((1, 4, 4, 1)), 2, 1, 2, count_include_pad=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int32"])
def test_options_of_the_mean_keep_the_dtype(dtype: str) -> None:
    x = jnp.ones((1, 6, 6, 2), dtype)
    for options in ({"ceil_mode": True}, {"count_include_pad": False}):
        y = ops.avg_pool(x, 3, 2, 1, **options)
        assert y.dtype == ops.avg_pool(x, 3, 2, 1).dtype
    np.testing.assert_array_equal(y, jnp.ones_like(y))


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


CHANNEL_POOLS: Mapping[str, tuple[Any, Any]] = {
    "max": (ops.channel_max_pool, np.max),
    "avg": (ops.channel_avg_pool, np.mean),
}
each_channel_pool = pytest.mark.parametrize("kind", CHANNEL_POOLS)


@each_channel_pool
@pytest.mark.parametrize(("window", "stride"), [(2, None), (3, None), (4, 2), (6, 1), (12, 5)])
def test_channel_pooling_equals_a_loop(kind: str, window: int, stride: int | None) -> None:
    pool, reduce = CHANNEL_POOLS[kind]
    x = np.random.default_rng(0).permutation(2 * 3 * 2 * 12).reshape(2, 3, 2, 12) / 10
    starts = range(0, 12 - window + 1, window if stride is None else stride)
    expected = np.stack([reduce(x[..., i : i + window], axis=-1) for i in starts], axis=-1)
    with jax.enable_x64(True):

        @jax.jit
        def compute(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return pool(x, window, stride), jax.vmap(lambda x: pool(x, window, stride))(x[0])

        result, batched = compute(jnp.asarray(x))
    np.testing.assert_allclose(result, expected, rtol=1e-14, strict=True)
    np.testing.assert_allclose(batched, expected[0], rtol=1e-14, strict=True)


@each_channel_pool
def test_gradients_of_channel_pooling_equal_finite_differences(kind: str) -> None:
    x = np.random.default_rng(0).permutation(24).reshape(2, 2, 6) / 10
    with jax.enable_x64(True):
        f = jax.jit(lambda x: CHANNEL_POOLS[kind][0](x, 4, 2))
        check_grads(f, (jnp.asarray(x),), 1, modes=exact_modes(kind))


def test_gradient_goes_to_the_first_of_equal_channels() -> None:
    gradient = jax.grad(lambda x: ops.channel_max_pool(x, 3).sum())(jnp.ones((2, 3, 6)))
    np.testing.assert_array_equal(gradient, np.broadcast_to([1, 0, 0] * 2, (2, 3, 6)))


@each_channel_pool
@pytest.mark.parametrize(
    ("window", "stride"), [(4, None), (0, 1), (11, 1), (2, 3), (3, 2), (2, 0), (2, -1)]
)
def test_windows_that_do_not_cover_all_channels_are_an_error(
    kind: str, window: int, stride: int | None
) -> None:
    step = window if stride is None else stride
    message = f"windows of {window} channels with stride {step} do not cover 10 channels"
    with pytest.raises(ValueError, match=message):
        CHANNEL_POOLS[kind][0](jnp.ones((2, 3, 3, 10)), window, stride)
