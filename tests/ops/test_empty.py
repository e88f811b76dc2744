"""Tests of operations on batches without images, and of `vmap` over none."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import ops
from cnn_jax.ops import primitive

IMAGES = jnp.ones((0, 2, 6, 6, 4))
LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return ops.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=LAYOUT,
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


# With stride 1, XLA operations multiply by banded matrices.
@pytest.mark.parametrize("name", primitive.LOWERINGS)
@pytest.mark.parametrize(
    ("shape", "stride"),
    [((3, 3, 4, 5), 1), ((3, 3, 4, 5), 2), ((3, 3, 1, 4), 2), ((3, 3, 2, 6), 1)],
)
def test_convolutions_of_no_images(name: str, shape: tuple[int, ...], stride: int) -> None:
    def total(kernel: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jax.vmap(lambda x: convolve(x, kernel, stride))(x)
        return y.sum(), y

    kernel = jnp.ones(shape)
    with ops.lowering(name):
        program = jax.jit(jax.grad(total, (0, 1), has_aux=True)).lower(kernel, IMAGES).compile()
    (dkernel, dx), y = program(kernel, IMAGES)
    np.testing.assert_array_equal(dkernel, np.zeros(shape))
    assert dx.shape == IMAGES.shape
    assert y.shape == (0, 2, 6 // stride, 6 // stride, shape[-1])


@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
@pytest.mark.parametrize("name", primitive.LOWERINGS)
def test_pooling_of_no_images(pool: Callable[..., jax.Array], name: str) -> None:
    def total(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: pool(x, 2))(x).sum()

    with ops.lowering(name):
        dx = jax.jit(jax.grad(total)).lower(IMAGES).compile()(IMAGES)
    assert dx.shape == IMAGES.shape
    assert pool(IMAGES, 2).shape == (0, 2, 3, 3, 4)


@pytest.mark.parametrize("pool", [ops.channel_max_pool, ops.channel_avg_pool])
def test_pooling_of_channels_of_no_images(pool: Callable[..., jax.Array]) -> None:
    assert pool(IMAGES, 2).shape == (0, 2, 6, 6, 2)
    assert ops.global_avg_pool(IMAGES).shape == (0, 2, 4)
