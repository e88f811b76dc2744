"""Tests of pooling over channels against loops over the windows."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnn_jax import ops
from tests.ops.pools import exact_modes

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
