"""Depthwise convolutions, as sums of shifted images times weights.

`m` is the channel multiplier: the number of outputs of each input channel.
"""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.cpu import phases, views
from cnn_jax.ops.window import Axis, Window

# Number of products that XLA can sum in one loop without running out of registers.
_SUMS_AT_ONCE = 9


def output(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes the output: `[B, H, W, C]` and `[kh, kw, 1, m C]` to `[B, H', W', m C]`."""
    x = jnp.repeat(x, kernel.shape[-1] // window.groups, axis=-1)
    return _sum_of_products(views.taps(x, window.rows, window.columns), kernel)


def input_gradient(dy: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes the input gradient: `[B, H', W', m C]` and `[kh, kw, 1, m C]` to `[B, H, W, C]`."""
    rows, columns = window.rows, window.columns
    taps_of_phase = phases.taps_of_phase(dy, rows, columns)

    def convolve(taps: jax.Array, row_axis: Axis, column_axis: Axis) -> jax.Array:
        return _sum_of_products(taps_of_phase(row_axis, column_axis), taps)

    dx = phases.input_gradient(kernel, rows, columns, convolve)
    return dx.reshape(*dx.shape[:-1], window.groups, dx.shape[-1] // window.groups).sum(-1)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """Computes the kernel gradient: `[B, H, W, C]` and `[B, H', W', m C]` to `[kh, kw, 1, m C]`."""
    rows, columns = window.rows, window.columns
    x = jnp.repeat(x, dy.shape[-1] // window.groups, axis=-1)
    products = [tap * dy for tap in views.taps(x, rows, columns)]
    # Sums over the columns first. The remaining rows and images are enough work for all cores.
    sums = [
        row_sum
        for first in range(0, len(products), _SUMS_AT_ONCE)
        for row_sum in _sums_over_columns(products[first : first + _SUMS_AT_ONCE])
    ]
    sums = lax.optimization_barrier(jnp.stack(sums)).sum((1, 2))
    return sums.reshape(rows.kernel, columns.kernel, 1, -1)


def _sum_of_products(taps: list[jax.Array], kernel: jax.Array) -> jax.Array:
    weights = kernel.reshape(len(taps), -1)
    products = (
        tap * lax.expand_dims(weight, (0, 1, 2)) for tap, weight in zip(taps, weights, strict=True)
    )
    return functools.reduce(jnp.add, products)


def _sums_over_columns(products: list[jax.Array]) -> Iterable[jax.Array]:
    def add(left: list[jax.Array], right: list[jax.Array]) -> list[jax.Array]:
        return [a + b for a, b in zip(left, right, strict=True)]

    return lax.reduce(products, [jnp.zeros((), x.dtype) for x in products], add, (2,))
