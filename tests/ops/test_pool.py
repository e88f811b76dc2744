"""Pooling against loops over the windows."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
        check_grads(pool, (jnp.asarray(x),), order=1, modes=["fwd", "rev"])


@each_pool
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_type_is_kept(kind: str, dtype: str) -> None:
    assert POOLS[kind][0](jnp.ones((1, 4, 4, 1), dtype), 2).dtype == dtype
