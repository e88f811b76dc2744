"""Tests of the multiply-adds of layers, against formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from cnn_jax.models import attention, costs, layers

TOKENS, WIDTH, HEADS = 10, 12, 3
PROJECTIONS = 4 * TOKENS * WIDTH * WIDTH  # Query, key, value and output.
PRODUCTS = 2 * TOKENS * TOKENS * WIDTH  # Query times key, and weights times value.


@jax.jit
def gram(x: jax.Array) -> jax.Array:
    """Returns the products of all pairs of rows of `[B, N, C]`."""
    return x @ x.mT


class Gram(nn.Module):
    """Module without parameters that computes a product of activations."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return gram(x)


class TwoGrams(nn.Module):
    """Two modules that call the same jitted function, and a product between them."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Gram(name="first")(x) @ x
        return Gram(name="second")(y)


class Repeated(nn.Module):
    """Dense layer that is applied four times in a scan."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        class Step(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
                return nn.Dense(WIDTH, name="dense")(x), None

        scanned = nn.scan(Step, {"params": 0}, split_rngs={"params": True}, length=4)
        return scanned(name="scan")(x, None)[0]


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Returns the multiply-adds of each layer that has any, by path."""
    return {row.path: row.multiply_adds for row in costs.rows(model, shape) if row.multiply_adds}


def test_attention_counts_its_products() -> None:
    model = attention.Attention(HEADS, 0.0, False, jnp.float32)
    found = multiply_adds(model, (TOKENS, WIDTH))
    assert found == {"qkv": PROJECTIONS * 3 // 4, "proj": PROJECTIONS // 4, "": PRODUCTS}


def test_window_attention_counts_the_products_of_each_window() -> None:
    model = attention.WindowAttention(HEADS, 0.0, False, jnp.float32, window=4, shifted=True)
    found = costs.rows(model, (6, 8, WIDTH))
    # The rows are padded to 8: four windows of 16 pixels.
    assert [(row.path, row.multiply_adds) for row in found] == [
        ("qkv", 4 * 16 * WIDTH * 3 * WIDTH),
        ("proj", 4 * 16 * WIDTH * WIDTH),
        ("", 4 * 2 * 16 * 16 * WIDTH),
    ]
    assert found[-1].parameters == HEADS * 7 * 7


def test_attention_of_flax_has_the_same_costs() -> None:
    model = nn.MultiHeadDotProductAttention(HEADS)
    found = multiply_adds(model, (TOKENS, WIDTH))
    assert {found[name] for name in ("query", "key", "value", "out")} == {PROJECTIONS // 4}
    assert sum(found.values()) == PROJECTIONS + PRODUCTS


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolution_costs_its_taps_of_each_input_pixel(stride: int) -> None:
    model = nn.ConvTranspose(5, (3, 2), strides=(stride, stride))
    assert multiply_adds(model, (6, 7, 4)) == {"": 6 * 7 * 4 * 3 * 2 * 5}


def test_products_belong_to_the_module_that_computes_them() -> None:
    square = TOKENS * TOKENS * WIDTH
    expected = {"first": square, "": square, "second": square}
    assert multiply_adds(TwoGrams(), (TOKENS, WIDTH)) == expected


def test_products_in_loops_and_recomputed_layers_count_as_in_the_forward_pass() -> None:
    assert sum(multiply_adds(Repeated(), (WIDTH,)).values()) == 4 * WIDTH * WIDTH
    conv = nn.remat(layers.Conv)(16, (3, 3), padding=1)
    assert sum(multiply_adds(conv, (9, 7, 8)).values()) == 9 * 7 * 9 * 8 * 16
