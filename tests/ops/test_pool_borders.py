"""Tests of pooling at the borders of images: output sizes, ceil_mode, and means without padding."""

import math
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnn_jax import ops
from tests.ops.pools import POOLS, Pair, each_pool, exact_modes, pair


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
