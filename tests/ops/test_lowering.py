"""Tests of the lowerings: on platforms other than the CPU they equal those of `jax.lax`."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_jax import ops

Function = Callable[..., Any]
LAYOUT = ("NHWC", "HWIO", "NHWC")

# Shape of the kernel, strides, padding and other options, for images with 4 channels.
CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "padded": ((3, 3, 4, 16), (1, 1), "SAME", {}),
    "unpadded": ((3, 3, 4, 16), (1, 1), "VALID", {}),
    "strided": ((3, 2, 4, 3), (2, 3), ((0, 3), (1, 0)), {}),
    "pointwise": ((1, 1, 4, 6), (2, 2), "VALID", {}),
    "dilated": ((3, 3, 4, 2), (2, 1), "SAME", {"rhs_dilation": (2, 3)}),
    "depthwise": ((3, 3, 1, 8), (2, 2), "SAME", {"feature_group_count": 4}),
    "groups": ((3, 3, 2, 6), (1, 1), "SAME", {"feature_group_count": 2}),
    "precise": ((3, 3, 4, 8), (1, 1), "SAME", {"precision": "highest"}),
}
each_convolution = pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
# The module that JAX exports is the same for both.
PLATFORMS = ("tpu", "cuda")
each_platform = pytest.mark.parametrize("platform", PLATFORMS)


def ours(case: tuple[Any, ...]) -> Function:
    _, strides, padding, options = case
    return lambda x, kernel: ops.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=LAYOUT, **options
    )


def theirs(case: tuple[Any, ...]) -> Function:
    _, strides, padding, options = case
    return lambda x, kernel: lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=LAYOUT, **options
    )


def operands(case: tuple[Any, ...], dtype: str = "float32") -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 9, 8, 4), case[0])]


def all_derivatives(f: Function) -> Function:
    """Returns a function for the output, the gradients and the tangents of `f`."""

    def derivatives(*arguments: jax.Array) -> Any:
        return f(*arguments), gradient(f)(*arguments), jax.jvp(f, arguments, arguments)

    return derivatives


def gradient(f: Function) -> Function:
    """Returns a function for the gradients with respect to all arguments of `f`."""

    def loss(*arguments: jax.Array) -> jax.Array:
        return jnp.sin(f(*arguments)).sum()

    return lambda *arguments: jax.grad(loss, tuple(range(len(arguments))))(*arguments)


def operations(f: Function, platform: str, *arguments: Any) -> list[str]:
    """Returns the lines of the exported StableHLO module, without source locations."""

    def program(*arguments: jax.Array) -> Any:
        return f(*arguments)

    module = jax.export.export(jax.jit(program), platforms=[platform])(*arguments).mlir_module()
    lines = [line for line in module.splitlines() if not line.startswith("#loc")]
    return [re.sub(r" loc\((?:[^()]|\([^()]*\))*\)", "", line) for line in lines]


@each_convolution
def test_convolution_off_the_cpu_equals_that_of_lax(case: tuple[Any, ...]) -> None:
    arguments = operands(case)
    expected = operations(theirs(case), "tpu", *arguments)
    assert sum("stablehlo.convolution" in line for line in expected) == 1
    assert len(expected) == 6  # Module, function, convolution, return, two brackets.
    for platform in PLATFORMS:
        assert operations(ours(case), platform, *arguments) == expected, platform


@each_convolution
def test_plain_lowering_on_the_cpu_equals_that_of_lax(case: tuple[Any, ...]) -> None:
    arguments = operands(case)
    expected = operations(all_derivatives(theirs(case)), "cpu", *arguments)
    with ops.lowering("plain"):
        assert operations(all_derivatives(ours(case)), "cpu", *arguments) == expected
    assert operations(all_derivatives(ours(case)), "cpu", *arguments) != expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_convolution
def test_convolution_derivatives_off_the_cpu_equal_those_of_lax(
    case: tuple[Any, ...], dtype: str
) -> None:
    arguments = operands(case, dtype)
    expected = operations(all_derivatives(theirs(case)), "tpu", *arguments)
    for platform in PLATFORMS:
        result = operations(all_derivatives(ours(case)), platform, *arguments)
        assert result == expected, platform
        assert not any("dot_general" in line for line in result)


@each_convolution
def test_second_derivatives_off_the_cpu_have_the_convolutions_of_lax(
    case: tuple[Any, ...],
) -> None:
    def convolutions(f: Function, platform: str) -> list[str]:
        def second(*arguments: jax.Array) -> Any:
            return jax.jvp(gradient(f), arguments, arguments)

        lines = operations(second, platform, *operands(case))
        return sorted(re.sub("%[0-9a-z]+", "%", line) for line in lines if "convolution" in line)

    expected = convolutions(theirs(case), "tpu")
    for platform in PLATFORMS:
        assert convolutions(ours(case), platform) == expected, platform


@each_platform
@pytest.mark.parametrize(
    ("pool", "initial", "operation"),
    [(ops.max_pool, -jnp.inf, lax.max), (ops.avg_pool, 0.0, lax.add)],
)
def test_pooling_off_the_cpu_equals_that_of_lax(
    pool: Function, initial: float, operation: Any, platform: str
) -> None:
    def plain(x: jax.Array) -> jax.Array:
        padding = ((0, 0), (1, 1), (0, 0), (0, 0))
        y = lax.reduce_window(x, initial, operation, (1, 3, 2, 1), (1, 2, 1, 1), padding)
        return y if operation is lax.max else y / 6

    x = jax.ShapeDtypeStruct((2, 9, 8, 4), jnp.float32)
    result = operations(all_derivatives(lambda x: pool(x, (3, 2), (2, 1), (1, 0))), platform, x)
    assert result == operations(all_derivatives(plain), platform, x)
    assert any("stablehlo.reduce_window" in line for line in result)
    scatters = any("stablehlo.select_and_scatter" in line for line in result)
    assert scatters == (operation is lax.max)


@each_platform
def test_default_matmul_precision_of_the_context_is_used(platform: str) -> None:
    def precise(f: Function) -> Function:
        def g(*arguments: jax.Array) -> Any:
            with jax.default_matmul_precision("highest"):
                return f(*arguments)

        return all_derivatives(g)

    case = CONVOLUTIONS["padded"]
    result = operations(precise(ours(case)), platform, *operands(case))
    assert result == operations(precise(theirs(case)), platform, *operands(case))
    assert any("precision HIGHEST" in line for line in result)


@pytest.mark.parametrize("name", ["depthwise", "pointwise"])
def test_cpu_lowering_has_no_convolution(name: str) -> None:
    case = CONVOLUTIONS[name]
    for line in operations(all_derivatives(ours(case)), "cpu", *operands(case)):
        assert "stablehlo.convolution" not in line


@pytest.mark.parametrize("part", [lambda f: f, gradient], ids=["output", "gradient"])
@pytest.mark.parametrize("name", ["padded", "pointwise", "depthwise", "groups"])
def test_export_for_two_platforms_and_symbolic_batch_size_runs(
    name: str, part: Callable[[Function], Function]
) -> None:
    case = CONVOLUTIONS[name]
    _, kernel = operands(case)
    (count,) = jax.export.symbolic_shape("count")
    images = jax.ShapeDtypeStruct((count, 9, 8, 4), jnp.float32)

    program = jax.jit(part(ours(case)))
    export = jax.export.export(program, platforms=["cpu", "tpu"])(images, kernel)
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=shape).astype("f4") for shape in ((3, 9, 8, 4), kernel.shape)]
    results = export.call(*arguments)
    expected = part(theirs(case))(*arguments)
    for result, truth in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(result, truth, rtol=0, atol=1e-5 * np.abs(truth).max())
