"""Tests of the arguments and errors of `conv_general_dilated`, and of its use in Flax layers."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnn_jax import errors, ops
from cnn_jax.models import layers

LAYOUT = ("NHWC", "HWIO", "NHWC")
IMAGES, KERNEL = (2, 8, 7, 4), (3, 2, 4, 6)


def random(shape: tuple[int, ...], dtype: Any = "float32", seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, shape)).astype(dtype)


def options(**changes: Any) -> dict[str, Any]:
    usual = {"window_strides": (1, 2), "padding": "SAME", "dimension_numbers": LAYOUT}
    return usual | changes


def jaxpr(convolve: Any, operands: Any, arguments: Mapping[str, Any]) -> str:
    return str(jax.make_jaxpr(lambda *xs: convolve(*xs, **arguments))(*operands))


# Arguments that are passed to `jax.lax`: shapes of images and kernel, their dtype, and options.
PASSED_TO_LAX: Mapping[str, tuple[Any, Any, str, dict[str, Any]]] = {
    "channels before pixels": ((2, 4, 8, 7), (6, 4, 3, 2), "float32", {"dimension_numbers": None}),
    "other layouts": (
        IMAGES,
        (6, 4, 3, 2),
        "float32",
        {"dimension_numbers": ("NHWC", "OIHW", "NHWC")},
    ),
    "another layout of the result": (
        IMAGES,
        KERNEL,
        "float32",
        {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
    ),
    "rows and columns swapped": (
        IMAGES,
        KERNEL,
        "float32",
        {"dimension_numbers": ("NHWC", "WHIO", "NHWC"), "padding": ((1, 1), (1, 1))},
    ),
    "dilated images": (
        IMAGES,
        KERNEL,
        "float32",
        {"lhs_dilation": (2, 1), "padding": ((0, 1), (1, 1))},
    ),
    "batch groups": (IMAGES, KERNEL, "float32", {"batch_group_count": 2}),
    "wider sums": (IMAGES, KERNEL, "bfloat16", {"preferred_element_type": jnp.float32}),
    "negative padding": (IMAGES, KERNEL, "float32", {"padding": ((0, 1), (-1, 2))}),
    "no images": ((0, *IMAGES[1:]), KERNEL, "float32", {}),
    "no outputs": (IMAGES, (9, 2, 4, 6), "float32", {"padding": "VALID"}),
    "integers": (IMAGES, KERNEL, "int32", {}),
    "complex numbers": (IMAGES, KERNEL, "complex64", {}),
    "8 bits": (IMAGES, KERNEL, "float8_e4m3fn", {}),
    "one dimension": (
        (2, 8, 4),
        (3, 4, 6),
        "float32",
        {"dimension_numbers": ("NWC", "WIO", "NWC"), "window_strides": (2,)},
    ),
    "three dimensions": (
        (1, 5, 6, 4, 2),
        (2, 3, 2, 2, 3),
        "float32",
        {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC"), "window_strides": (1, 2, 1)},
    ),
}


@pytest.mark.parametrize("case", PASSED_TO_LAX.values(), ids=PASSED_TO_LAX)
def test_unsupported_arguments_are_passed_to_lax(
    case: tuple[Any, Any, str, dict[str, Any]],
) -> None:
    images, kernel, dtype, changes = case
    operands, arguments = (random(images, dtype), random(kernel, dtype)), options(**changes)
    ours = jaxpr(ops.conv_general_dilated, operands, arguments)
    assert ours == jaxpr(lax.conv_general_dilated, operands, arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"padding": "valid"},
        {"padding": "SAME_LOWER"},
        {"padding": [[1, 2], [0, 1]]},
        {"padding": np.array([[1, 2], [0, 1]])},
        {"window_strides": [2, 1]},
        {"window_strides": np.array([2, 1])},
        {"dimension_numbers": lax.conv_dimension_numbers(IMAGES, KERNEL, LAYOUT)},
        {"lhs_dilation": (1, 1), "rhs_dilation": [2, 1]},
        {"precision": "highest"},
        {"precision": (lax.Precision.DEFAULT, lax.Precision.HIGH)},
        {"precision": ["default", "high"]},
        {"preferred_element_type": jnp.float32},
        {"preferred_element_type": "float32"},
    ],
    ids=str,
)
def test_arguments_have_the_forms_that_lax_accepts(changes: dict[str, Any]) -> None:
    operands, arguments = (random(IMAGES), random(KERNEL, seed=1)), options(**changes)
    assert "conv_general_dilated" not in jaxpr(ops.conv_general_dilated, operands, arguments)
    result = ops.conv_general_dilated(*operands, **arguments)
    expected = lax.conv_general_dilated(*operands, **arguments)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4, strict=True)


def test_numpy_arrays_are_accepted() -> None:
    images, kernel = np.asarray(random(IMAGES)), np.asarray(random(KERNEL))
    arguments = options(lhs=images, rhs=kernel)
    result, expected = ops.conv_general_dilated(**arguments), lax.conv_general_dilated(**arguments)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4, strict=True)


def test_weak_types_stay_weak() -> None:
    images, kernel = jnp.full(IMAGES, 1.0), jnp.full(KERNEL, 1.0)
    for convolve in (lax.conv_general_dilated, ops.conv_general_dilated):
        assert convolve(images, kernel, **options()).weak_type
        assert not convolve(images, random(KERNEL), **options()).weak_type
    for pool in (ops.max_pool, ops.avg_pool):
        assert pool(images, 2).weak_type
        assert not pool(random(IMAGES), 2).weak_type


@pytest.mark.parametrize("size", [(1, 1), (3, 3)])
def test_images_without_channels_have_gradients(size: tuple[int, int]) -> None:
    images, kernel = jnp.ones((2, 8, 7, 0)), jnp.ones((*size, 0, 6))
    y, pull_back = jax.vjp(lambda *xs: ops.conv_general_dilated(*xs, **options()), images, kernel)
    assert not y.any()
    assert [dx.shape for dx in pull_back(y)] == [images.shape, kernel.shape]


@pytest.mark.parametrize(
    ("kernel", "dtype", "changes"),
    [
        ((3, 2, 3, 6), "float32", {}),
        ((3, 2, 4, 6), "bfloat16", {}),
        ((3, 2, 4), "float32", {}),
        (KERNEL, "float32", {"feature_group_count": 3}),
        (KERNEL, "float32", {"feature_group_count": 2}),
        ((3, 2, 2, 5), "float32", {"feature_group_count": 2}),
        (KERNEL, "float32", {"feature_group_count": 0}),
        (KERNEL, "float32", {"batch_group_count": 2, "feature_group_count": 2}),
        (KERNEL, "float32", {"window_strides": (1,)}),
        (KERNEL, "float32", {"padding": "FULL"}),
        (KERNEL, "float32", {"padding": 1}),
        (KERNEL, "float32", {"padding": ((1, 1),)}),
        (KERNEL, "float32", {"rhs_dilation": (0, 1)}),
        (KERNEL, "float32", {"precision": "exact"}),
        (KERNEL, "float32", {"preferred_element_type": jnp.float16}),
        (KERNEL, "float32", {"dimension_numbers": ("NHWC", "HWIO")}),
    ],
)
def test_errors_are_those_of_lax(
    kernel: tuple[int, ...], dtype: str, changes: dict[str, Any]
) -> None:
    operands, arguments = (random(IMAGES), random(kernel, dtype)), options(**changes)
    with pytest.raises((TypeError, ValueError, RuntimeError), match=r".+") as expected:
        lax.conv_general_dilated(*operands, **arguments)
    with pytest.raises(expected.type) as result:
        ops.conv_general_dilated(*operands, **arguments)
    assert str(result.value) == str(expected.value)


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ((3, 3), {"strides": 2, "padding": "VALID"}),
        ((3, 2), {"padding": "CIRCULAR"}),
        ((3, 3), {"kernel_dilation": 2}),
        ((3, 3), {"feature_group_count": 4, "use_bias": False}),
        ((2, 2), {"input_dilation": 2, "padding": 1}),
        ((3, 3), {"dtype": jnp.float16}),
        ((3,), {}),
    ],
    ids=str,
)
def test_flax_layers_accept_our_convolution(
    size: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    images = random((2, *(8, 7)[: len(size)], 4))
    plain = nn.Conv(8, size, **arguments)
    ours = nn.Conv(8, size, **arguments, conv_general_dilated=ops.conv_general_dilated)
    check_layers(ours, plain, images)


def test_nnx_layers_train_with_our_convolution() -> None:
    """`nnx.Conv` gives `out_sharding` to the convolution."""
    images = random((2, 8, 7, 4))

    def train(**options: Any) -> Any:
        layer = nnx.Conv(4, 6, (3, 3), strides=2, rngs=nnx.Rngs(0), **options)
        loss, gradients = nnx.value_and_grad(lambda layer: jnp.sin(layer(images)).sum())(layer)
        nnx.update(layer, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(layer), gradients))
        return loss, layer(images), layer(images[0])

    results = train(conv_general_dilated=ops.conv_general_dilated)
    for result, expected in zip(results, train(), strict=True):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4, strict=True)


def test_sharding_of_the_result_is_passed_to_lax() -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    images, kernel = (
        jax.device_put(random(shape), NamedSharding(mesh, PartitionSpec()))
        for shape in (IMAGES, KERNEL)
    )
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    y = ops.conv_general_dilated(images, kernel, **options(out_sharding=sharding))
    assert jax.typeof(y).sharding.spec == PartitionSpec("data", None, None, None)


def test_signature_is_that_of_lax() -> None:
    ours, theirs = map(inspect.signature, (ops.conv_general_dilated, lax.conv_general_dilated))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


def test_images_without_batch_axis_are_an_error() -> None:
    message = r"shape \(8, 7, 4\) have no batch axis.*images\[None\]"
    with pytest.raises(errors.UserError, match=message):
        ops.conv_general_dilated(random(IMAGES[1:]), random(KERNEL), **options())


@pytest.mark.parametrize(("stride", "padding", "groups"), [(2, "SAME", 1), (1, 3, 2)])
def test_layer_of_the_networks_equals_that_of_flax(stride: int, padding: Any, groups: int) -> None:
    plain = nn.Conv(8, (3, 3), stride, padding, feature_group_count=groups)
    ours = layers.Conv(8, (3, 3), stride, padding, groups)
    check_layers(ours, plain, random((2, 8, 7, 4)))


def check_layers(ours: nn.Module, plain: nn.Module, images: jax.Array) -> None:
    """Compares output and gradients, to 10 units in the last place of the largest value.

    With 16-bit dtypes, the two layers may round at different points.
    """
    shapes = jax.eval_shape(plain.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: random(leaf.shape), shapes)

    def compute(variables: Any, images: jax.Array, layer: nn.Module) -> Any:
        apply: Any = layer.apply
        y, pull_back = jax.vjp(apply, variables, images)
        return y, pull_back(jnp.sin(jnp.arange(y.size).reshape(y.shape)).astype(y.dtype))

    results, expected = (
        jax.jit(functools.partial(compute, layer=layer))(variables, images)
        for layer in (ours, plain)
    )
    for x, y in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        tolerance = 10 * float(jnp.finfo(y.dtype).eps) * float(jnp.abs(y).max())
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance, strict=True)
