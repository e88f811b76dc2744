"""Tests of the forms of the arguments of pooling, against Flax, and of its errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import errors, ops

SHAPES = [(7, 6, 3), (2, 7, 6, 3), (2, 3, 7, 6, 3)]
POOLS = [ops.max_pool, ops.avg_pool, lambda *xs: ops.stochastic_pool(*xs, key=None)]


def draw(shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(1, 2, shape), jnp.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("padding", ["VALID", "SAME", ((1, 2), (0, 1))], ids=str)
@pytest.mark.parametrize(("window", "stride"), [((3, 2), (2, 1)), ([3, 2], [1, 2])])
def test_pooling_takes_the_arguments_of_flax(
    shape: tuple[int, ...], padding: Any, window: Any, stride: Any
) -> None:
    x = draw(shape)
    images = x.reshape(-1, *shape[-3:])  # Flax does not take pairs for two batch axes.
    arguments = tuple(window), tuple(stride), padding
    expected = nn.max_pool(images, *arguments)
    result = ops.max_pool(x, window, stride, padding)
    assert result.shape == (*shape[:-3], *expected.shape[1:])
    np.testing.assert_array_equal(result.reshape(expected.shape), expected, strict=True)
    for count in (True, False):
        result = ops.avg_pool(x, window, stride, padding, count_include_pad=count)
        expected = nn.avg_pool(images, *arguments, count_include_pad=count)
        np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-6, strict=True)


def test_ceil_mode_counts_the_padding_of_each_side() -> None:
    x = jnp.ones((1, 4, 4, 1))
    rows = ops.avg_pool(x, (3, 1), (2, 1), ((0, 0), (0, 0)), ceil_mode=True)[0, :, 0, 0]
    np.testing.assert_array_equal(rows, [1, 1])  # The second window has two pixels.
    rows = ops.avg_pool(x, (3, 1), (2, 1), ((1, 1), (0, 0)), ceil_mode=True)[0, :, 0, 0]
    np.testing.assert_allclose(rows, [2 / 3, 1, 1 / 2], rtol=1e-6)
    rows = ops.avg_pool(x, (3, 1), (2, 1), ((1, 0), (0, 0)), ceil_mode=True)[0, :, 0, 0]
    np.testing.assert_allclose(rows, [2 / 3, 1], rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_other_pooling_takes_any_number_of_batch_axes(shape: tuple[int, ...]) -> None:
    x = draw(shape)
    images = x.reshape(-1, *shape[-3:])
    key = jax.random.key(0)
    for pool in (
        lambda x: ops.stochastic_pool(x, 2, key=key),
        lambda x: ops.channel_max_pool(x, 3),
        lambda x: ops.channel_avg_pool(x, 3),
        ops.global_avg_pool,
    ):
        flat = np.asarray(pool(images))
        np.testing.assert_array_equal(pool(x), flat.reshape(*shape[:-3], *flat.shape[1:]))
    vector = ops.channel_max_pool(x[..., 0, 0, :], 3)
    np.testing.assert_array_equal(vector, x[..., 0, 0, :].max(-1, keepdims=True))


@pytest.mark.parametrize("pool", [*POOLS, lambda x, _: ops.global_avg_pool(x)])
def test_array_without_channels_is_an_error(pool: Any) -> None:
    with pytest.raises(errors.UserError, match=r"shape \(7, 6\).*x\[\.\.\., None\]"):
        pool(jnp.ones((7, 6)), 2)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("value", [0, (2, 0), (1, 2, 3), 2.5, "2"], ids=str)
def test_window_or_stride_that_is_not_whole_is_an_error(pool: Any, value: Any) -> None:
    for name, arguments in (("window", (value,)), ("stride", (2, value))):
        message = f"{name} must be one or two whole numbers of at least 1, got "
        with pytest.raises(errors.UserError, match=message):
            pool(jnp.ones((1, 7, 6, 2)), *arguments)
