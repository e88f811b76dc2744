"""Tests of the operations under JAX's transformations, against those of `jax.lax`."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from cnn_jax import ops

Function = Callable[..., Any]
Arrays = tuple[jax.Array, ...]
RNG = np.random.default_rng(0)


class Operation(NamedTuple):
    """Our operation, that of `jax.lax`, and their arguments, of which the first is the images."""

    ours: Function
    theirs: Function
    arguments: tuple[np.ndarray, ...]


def convolution(
    images: tuple[int, ...], kernel: tuple[int, ...], stride: int, groups: int
) -> Operation:
    def with_options(convolve: Function) -> Function:
        return functools.partial(
            convolve,
            window_strides=(stride, 1),
            padding=((1, 2), (0, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    ours, theirs = with_options(ops.conv_general_dilated), with_options(lax.conv_general_dilated)
    return Operation(ours, theirs, (RNG.normal(size=images), RNG.normal(size=kernel)))


def pooling(pool: Function, initial: float, operation: Any) -> Operation:
    def theirs(x: jax.Array) -> jax.Array:
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        y = lax.reduce_window(x, initial, operation, (1, 3, 3, 1), (1, 2, 2, 1), pads)
        return y if operation is lax.max else y / 9

    x = RNG.permutation(2 * 5 * 4 * 2).reshape(2, 5, 4, 2) / 40  # Distinct values.
    return Operation(lambda x: pool(x, 3, 2, 1), theirs, (x,))


OPERATIONS: Mapping[str, Operation] = {
    "convolution": convolution((2, 5, 4, 2), (3, 2, 2, 3), 2, 1),
    "depthwise convolution": convolution((2, 4, 3, 2), (3, 2, 1, 4), 1, 2),
    "maximum": pooling(ops.max_pool, -np.inf, lax.max),
    "average": pooling(ops.avg_pool, 0.0, lax.add),
}
each_operation = pytest.mark.parametrize("name", ["convolution", "maximum", "average"])


def loss(f: Function) -> Function:
    """Returns a scalar function of the output of `f` whose second derivatives are not zero."""
    return lambda *arguments: jnp.sin(f(*arguments)).sum()


def gradient(f: Function) -> Function:
    """Returns a function for the gradients with respect to all arguments of `f`."""
    return lambda *arguments: jax.grad(loss(f), tuple(range(len(arguments))))(*arguments)


def tangents(arguments: Arrays) -> Arrays:
    return tuple(jnp.cos(7 * x) for x in arguments)


def scan(f: Function) -> Function:
    """Returns a `lax.scan` over single images, with its gradient with respect to the images."""

    def total(*arguments: jax.Array) -> jax.Array:
        def step(carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = jnp.sin(f(x[None], *arguments[1:]))
            return carry * 0.9 + y.sum(), y

        carry, ys = lax.scan(step, jnp.zeros(()), arguments[0])
        return carry + (ys**2).sum()

    return jax.value_and_grad(total)


def linearize(f: Function) -> Function:
    def run(*arguments: jax.Array) -> Any:
        y, linear = jax.linearize(f, *arguments)
        transposed = jax.linear_transpose(linear, *arguments)
        return y, linear(*tangents(arguments)), transposed(y)

    return run


def reverse_over_reverse(f: Function) -> Function:
    def squares(*arguments: jax.Array) -> jax.Array:
        return sum((dx**2).sum() for dx in gradient(f)(*arguments)) / 2

    return lambda *arguments: jax.grad(squares, tuple(range(len(arguments))))(*arguments)


def forward_over_reverse(f: Function) -> Function:
    return lambda *arguments: jax.jvp(gradient(f), arguments, tangents(arguments))


def shard_map(f: Function) -> Function:
    """Returns `f` and its gradient in a `shard_map` over one device; see also `test_devices.py`."""

    def run(*arguments: jax.Array) -> Any:
        mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
        specs = (PartitionSpec("data"), *(PartitionSpec() for _ in arguments[1:]))
        mapped = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("data"))
        return mapped(*arguments), gradient(mapped)(*arguments)

    return run


def per_image_gradients(f: Function) -> Function:
    """Returns a function for the gradients with respect to all arguments, for each image."""

    def run(*arguments: jax.Array) -> Any:
        axes = (0, *(None for _ in arguments[1:]))
        return jax.vmap(gradient(lambda x, *rest: f(x[None], *rest)), axes)(*arguments)

    return run


TRANSFORMATIONS: Mapping[str, Callable[[Function], Function]] = {
    "eager": lambda f: lambda *xs: (f(*xs), gradient(f)(*xs)),
    "jit": lambda f: jax.jit(lambda *xs: (f(*xs), gradient(f)(*xs))),
    "jvp": lambda f: jax.jit(lambda *xs: jax.jvp(f, xs, tangents(xs))),
    "linearize": lambda f: jax.jit(linearize(f)),
    "checkpoint": lambda f: jax.jit(gradient(jax.checkpoint(lambda *xs: jnp.sin(f(*xs))))),
    "scan": lambda f: jax.jit(scan(f)),
    "shard_map": lambda f: jax.jit(shard_map(f)),
    "gradients of each image": lambda f: jax.jit(per_image_gradients(f)),
    "reverse over reverse": lambda f: jax.jit(reverse_over_reverse(f)),
    "forward over reverse": lambda f: jax.jit(forward_over_reverse(f)),
}


def assert_close(ours: Any, theirs: Any) -> None:
    for result, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        atol = 1e-12 * max(float(jnp.abs(expected).max()), 1)
        np.testing.assert_allclose(result, expected, rtol=0, atol=atol, strict=True)


@pytest.mark.parametrize("transform", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
@each_operation
def test_transformations_match_those_of_lax(
    name: str, transform: Callable[[Function], Function]
) -> None:
    operation = OPERATIONS[name]
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x) for x in operation.arguments]
        ours, theirs = (transform(f)(*arguments) for f in (operation.ours, operation.theirs))
        assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("convolution", (0, None)),
        ("convolution", (4, None)),
        ("convolution", (None, 3)),
        ("convolution", (1, 2)),
        ("depthwise convolution", (1, None)),
        ("depthwise convolution", (0, 0)),
        ("maximum", (0,)),
        ("maximum", (2,)),
        ("average", (4,)),
    ],
)
def test_vmap_matches_that_of_lax(name: str, axes: tuple[int | None, ...]) -> None:
    operation = OPERATIONS[name]
    arguments = [
        x if axis is None else np.stack([x, 3 - x, 2 * x], axis)
        for x, axis in zip(operation.arguments, axes, strict=True)
    ]

    def compute(f: Function, *arguments: jax.Array) -> Any:
        return jax.vmap(f, axes)(*arguments), jax.vmap(gradient(f), axes)(*arguments)

    with jax.enable_x64(True):
        ours, theirs = (
            jax.jit(functools.partial(compute, f))(*map(jnp.asarray, arguments))
            for f in (operation.ours, operation.theirs)
        )
        assert_close(ours, theirs)


@pytest.mark.parametrize(
    "count", [2, pytest.param(9, marks=pytest.mark.slow)]
)  # Separate calls of the kernels, and a loop.
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["convolution", "depthwise convolution"])
def test_vmap_over_kernels_equals_a_loop(name: str, shared: bool, count: int) -> None:
    """The native kernels compute the results one by one, so they have the same bits."""
    f, _, (images, kernel) = OPERATIONS[name]
    parts = [jnp.asarray(x, jnp.float32) for x in (images, kernel)]
    x, w = (jnp.stack([x + i for i in range(count)]) for x in parts)
    axes = (None if shared else 0, 0)

    def compute(*xs: jax.Array) -> Any:
        y, pull_back = jax.vjp(f, *xs)
        return y, pull_back(y)

    one = jax.jit(compute)
    results = jax.jit(jax.vmap(compute, axes))(x[0] if shared else x, w)
    for i in range(count):
        expected = one(x[0] if shared else x[i], w[i])
        for result, truth in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(result[i], truth, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)], ids=str)
@pytest.mark.parametrize("name", ["convolution", "depthwise convolution"])
def test_derivatives_of_vmap_match_those_of_lax(name: str, axes: tuple[int | None, ...]) -> None:
    """Differentiates after the batching, which gives the derivatives of mapped primitives."""
    operation = OPERATIONS[name]
    arguments = [
        x if axis is None else np.stack([x, 3 - x], axis)
        for x, axis in zip(operation.arguments, axes, strict=True)
    ]

    def compute(f: Function, *xs: jax.Array) -> Any:
        mapped = jax.vmap(f, axes)
        results = [gradient(mapped)(*xs), forward_over_reverse(mapped)(*xs)]
        if axes == (0, 0):
            twice = jax.vmap(mapped, (None, 0))  # Two mapped axes of the kernel.
            results.append(gradient(twice)(xs[0], jnp.stack([xs[1], 2 * xs[1]])))
        return results

    with jax.enable_x64(True):
        ours, theirs = (
            jax.jit(functools.partial(compute, f))(*map(jnp.asarray, arguments))
            for f in (operation.ours, operation.theirs)
        )
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", OPERATIONS)
def test_transformations_keep_our_primitives(name: str) -> None:
    """The slow operations of `jax.lax` give the same values, so this test checks the jaxpr."""
    f, _, arguments = OPERATIONS[name]
    images, *rest = arguments
    axes = (0, *(None for _ in rest))
    jaxpr = jax.make_jaxpr(
        lambda *xs: (
            gradient(f)(*xs),
            gradient(jax.checkpoint(f))(*xs),
            scan(f)(*xs),
            jax.jvp(f, xs, xs),
            jax.vmap(f, axes)(xs[0][None], *xs[1:]),
            jax.vmap(jax.grad(loss(f)), axes)(xs[0][None], *xs[1:]),
            jax.vmap(gradient(f))(*(x[None] for x in xs)),
        )
    )(images, *rest)
    for slow in ("conv_general_dilated", "reduce_window", "select_and"):
        assert slow not in str(jaxpr)


@each_operation
def test_hessians_match_those_of_lax(name: str) -> None:
    operation = OPERATIONS[name]
    with jax.enable_x64(True):
        x, *rest = (jnp.asarray(x[:1, :3, :3] if x.ndim else x) for x in operation.arguments)
        ours, theirs = (
            jax.jit(jax.hessian(loss(f)))(x, *rest) for f in (operation.ours, operation.theirs)
        )
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["convolution", "maximum"])
def test_operations_work_without_jit(name: str) -> None:
    ours, theirs, arguments = OPERATIONS[name]
    with jax.enable_x64(True), jax.disable_jit():
        assert_close(ours(*arguments), theirs(*arguments))
