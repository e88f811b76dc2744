"""Tests of Taylor coefficients (`jax.experimental.jet`) through the operations.

The expected coefficients are those of `jax.lax`. It has no Taylor rule for maxima of windows and
for custom derivatives, so they are computed as nested derivatives along a curve.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import jet

from cnn_jax import ops

Function = Callable[..., Any]
IMAGES, CHANNELS = (2, 4, 3, 4), (4,)


class Operation(NamedTuple):
    """Our operation, the same in terms of `jax.lax`, and the shapes of the arguments."""

    ours: Function
    theirs: Function
    shapes: tuple[tuple[int, ...], ...]


def convolution(kernel: tuple[int, ...], groups: int) -> Operation:
    options: Any = {
        "window_strides": (2, 1),
        "padding": "SAME",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "feature_group_count": groups,
    }
    ours = partial(ops.conv_general_dilated, **options)
    return Operation(ours, partial(lax.conv_general_dilated, **options), (IMAGES, kernel))


def reduce_window(x: jax.Array, initial: float, operation: Any) -> jax.Array:
    return lax.reduce_window(x, initial, operation, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def normalize_plainly(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    deviation = x - x.mean((0, 1, 2))
    return deviation / jnp.sqrt((deviation**2).mean((0, 1, 2)) + 1e-3) * scale + bias


OPERATIONS: Mapping[str, Operation] = {
    "convolution": convolution((3, 2, 4, 3), 1),
    "depthwise convolution": convolution((2, 2, 1, 8), 4),
    "max_pool": Operation(
        lambda x: ops.max_pool(x, 3, 2, "SAME"),
        lambda x: reduce_window(x, -jnp.inf, lax.max),
        (IMAGES,),
    ),
    "avg_pool": Operation(
        lambda x: ops.avg_pool(x, 3, 2, "SAME"),
        lambda x: reduce_window(x, 0.0, lax.add) / 9,
        (IMAGES,),
    ),
    "batch_normalize": Operation(
        lambda x, scale, bias: ops.batch_normalize(x, scale, bias, 1e-3)[0],
        normalize_plainly,
        (IMAGES, CHANNELS, CHANNELS),
    ),
    "moments": Operation(
        lambda x: jnp.stack(ops.moments(x)),
        lambda x: jnp.stack([x.mean((0, 1, 2)), x.var((0, 1, 2))]),
        (IMAGES,),
    ),
    "scale_and_shift": Operation(
        ops.scale_and_shift, lambda x, scale, shift: scale * x + shift, (IMAGES, CHANNELS, CHANNELS)
    ),
    "materialize": Operation(ops.materialize, lambda x: x, (IMAGES,)),
    "stochastic_pool": Operation(
        lambda x: ops.stochastic_pool(jnp.exp(x), 3, 2, 1, key=None),
        lambda x: reduce_padded(jnp.exp(2 * x)) / reduce_padded(jnp.exp(x)),
        (IMAGES,),
    ),
}


def reduce_padded(x: jax.Array) -> jax.Array:
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), edges)


def derivatives_along_a_curve(f: Function, primals: Any, series: Any) -> list[jax.Array]:
    """Returns `f` and its first derivatives along the curve with these Taylor coefficients."""

    def curve(t: jax.Array) -> Any:
        return f(
            *(
                x + sum(c * t**k / math.factorial(k) for k, c in enumerate(terms, 1))
                for x, terms in zip(primals, series, strict=True)
            )
        )

    functions = [curve]
    for _ in series[0]:
        functions.append(partial(lambda g, t: jax.jvp(g, (t,), (jnp.ones(()),))[1], functions[-1]))
    return [function(jnp.zeros(())) for function in functions]


def gradient(f: Function) -> Function:
    return jax.grad(lambda *xs: jnp.sin(f(*xs)).sum())


def mapped(f: Function) -> Function:
    """Returns the `vmap` of `f` over all arguments."""
    return lambda *xs: jax.vmap(f)(*(jnp.stack([x, 2 * x]) for x in xs))


# The cost of the expected derivatives grows exponentially with the order.
@pytest.mark.parametrize(
    ("transform", "order"),
    [
        (lambda f: f, 3),
        pytest.param(gradient, 2, marks=pytest.mark.slow),
        pytest.param(mapped, 2, marks=pytest.mark.slow),
    ],
    ids=["", "grad", "vmap"],
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_taylor_coefficients_are_those_of_lax(name: str, transform: Function, order: int) -> None:
    ours, theirs, shapes = OPERATIONS[name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        primals = [jnp.asarray(rng.normal(1, 2, shape)) for shape in shapes]
        series = [[jnp.asarray(rng.normal(size=x.shape)) for _ in range(order)] for x in primals]
        first, others = jax.jit(partial(jet.jet, transform(ours)))(primals, series)
        expected = jax.jit(partial(derivatives_along_a_curve, transform(theirs)))(primals, series)
        for result, truth in zip([first, *others], expected, strict=True):
            atol = 1e-9 * max(float(jnp.abs(truth).max()), 1)
            np.testing.assert_allclose(result, truth, rtol=0, atol=atol, strict=True)


def test_coefficients_of_a_convolution_are_those_of_jet_through_lax() -> None:
    ours, theirs, shapes = OPERATIONS["convolution"]
    primals = [jnp.asarray(np.random.default_rng(0).normal(size=s), "float32") for s in shapes]
    series = [[jnp.cos(x), jnp.sin(x)] for x in primals]
    results, expected = (jax.jit(partial(jet.jet, f))(primals, series) for f in (ours, theirs))
    for result, truth in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(result, truth, rtol=0, atol=1e-4, strict=True)
