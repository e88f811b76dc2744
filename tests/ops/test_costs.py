"""Tests of XLA's cost analysis of programs with native kernels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.summary import tabulate

from cnn_jax import models, ops
from cnn_jax.ops.native import library

X, KERNEL = np.ones((2, 9, 8, 4), np.float32), np.ones((3, 3, 2, 6), np.float32)


@pytest.fixture(autouse=True)
def native_kernels() -> None:
    """Skips the tests on machines without native kernels."""
    if not library.has("ConvOutput", jnp.ones(1)):
        pytest.skip("requires the native kernels")


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return ops.conv_general_dilated(
        x, kernel, (2, 1), "SAME", dimension_numbers=layout, feature_group_count=2
    )


def gradients(x: jax.Array, kernel: jax.Array) -> Any:
    return jax.grad(lambda *operands: convolve(*operands).sum(), (0, 1))(x, kernel)


def lowered(f: Callable[..., Any], *arguments: Any, way: str = "native") -> jax.stages.Lowered:
    def program(*arguments: Any) -> Any:
        return f(*arguments)

    with ops.lowering(way):
        return jax.jit(program).lower(*arguments)


def flops(*arguments: Any, **options: Any) -> float:
    analysis: Any = lowered(*arguments, **options).cost_analysis()
    return float(analysis["flops"])


@pytest.mark.parametrize(
    ("f", "arguments"),
    [
        (convolve, (X, KERNEL)),
        (gradients, (X, KERNEL)),
        (jax.vmap(convolve, (None, 0)), (X, np.stack([KERNEL, KERNEL]))),
        (lambda x: ops.max_pool(x, 3, 2), (X,)),
        (ops.moments, (X,)),
    ],
    ids=["convolution", "gradients", "mapped", "max_pool", "moments"],
)
def test_native_kernels_count_the_operations_of_lax(
    f: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    expected = flops(f, *arguments, way="plain")
    assert expected > 0
    assert flops(f, *arguments) == pytest.approx(expected, rel=0.01)


def test_the_counted_operations_are_not_compiled() -> None:
    program = lowered(gradients, X, KERNEL)
    text = program.compile().as_text() or ""
    assert "custom-call" in text
    assert " convolution(" not in text
    assert "stablehlo.convolution" in program.as_text()


def test_tabulate_counts_the_floating_point_operations_of_a_network() -> None:
    model, images = models.create("lenet", num_classes=10), jnp.ones((1, 32, 32, 1))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    total = flops(lambda v, x: model.apply(v, x, train=False), variables, images)
    assert total == pytest.approx(2 * 416_520, rel=0.03)  # And activations and pooling.
    table = tabulate(
        model, jax.random.key(0), depth=0, compute_flops=True, console_kwargs={"width": 200}
    )
    assert f" {total:.0f} " in table(images, train=False)
