"""Tests of networks under meshes, under Flax's transformations, and with strict promotion."""

import contextlib
import copy
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from cnn_jax import models
from cnn_jax.ops import primitive
from tests.models.test_structure import (
    CASES,
    DEEP,
    create,
    images_of,
    input_shape,
    variables_of,
)

KEY = jax.random.key(0)
EXPLICIT = AbstractMesh((2,), ("data",), axis_types=(AxisType.Explicit,))

# Tracing their gradients takes seconds.
LARGE = (*DEEP, "googlenet", "bn_inception", "mobilenetv3_small_075", "shufflenet_v2_x0_5")


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Forbids implicit broadcasting to a higher rank and implicit conversions of arrays."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def loss_of(model: nn.Module) -> Any:
    """Returns a function of parameters, running statistics and images, and of a key for dropout."""

    def loss(params: Any, others: Any, images: jax.Array, key: jax.Array) -> Any:
        variables, rngs = {"params": params, **others}, {"dropout": key}
        mutable = ["batch_stats", "aux_logits"]
        logits, updates = model.apply(variables, images, train=True, rngs=rngs, mutable=mutable)
        outputs = [logits, *jax.tree.leaves(updates.get("aux_logits", {}))]
        return sum(jnp.sin(one).mean() for one in outputs), logits

    return loss


def split(variables: Any) -> tuple[Any, Any]:
    """Returns the parameters, and the other collections."""
    return variables["params"], {key: tree for key, tree in variables.items() if key != "params"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in CASES],
)
def test_gradients_under_an_explicit_mesh_and_strict_promotion(name: str) -> None:
    loss = loss_of(create(name, dtype="bfloat16"))
    whole, data = (NamedSharding(EXPLICIT, PartitionSpec(*axes)) for axes in ((), ("data",)))

    def placed(leaf: Any, sharding: NamedSharding = whole) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    params, others = split(jax.tree.map(placed, variables_of(name)))
    images, key = placed(images_of(name), data), placed(jax.eval_shape(lambda: KEY))
    with jax.sharding.use_abstract_mesh(EXPLICIT), strict():
        gradient = jax.value_and_grad(loss, has_aux=True)
        (_, logits), grads = jax.eval_shape(gradient, params, others, images, key)
    assert logits.sharding.spec == PartitionSpec("data", None)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


# AlexNet reshapes for its two streams, the transformer appends a token; both have dropout.
@pytest.mark.parametrize(
    "name", ["alexnet", pytest.param("vit_tiny_patch16_224", marks=pytest.mark.slow)]
)
def test_an_explicit_mesh_changes_no_value(name: str) -> None:
    loss = jax.jit(loss_of(create(name)))
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> Any:
        return rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)

    params, others = split(jax.tree.map(draw, variables_of(name)))
    arguments = (params, others, draw(images_of(name)), KEY)
    expected = loss(*arguments)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put((params, others), NamedSharding(mesh, PartitionSpec()))
        images = jax.device_put(arguments[2], NamedSharding(mesh, PartitionSpec("data")))
        found = loss(*placed, images, KEY)

    def compare(one: jax.Array, other: jax.Array) -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max() + 1e-7)

    jax.tree.map(compare, found, expected)


@pytest.mark.parametrize("lowering", ["native", "plain"])
@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_compilation_with_strict_promotion(name: str, lowering: str) -> None:
    gradient = jax.jit(jax.grad(loss_of(create(name, dtype="bfloat16")), has_aux=True))
    with strict(), primitive.lowering(lowering):
        lowered = gradient.lower(*split(variables_of(name)), images_of(name), KEY)
    _, logits = lowered.out_info
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


def test_train_is_taken_by_position_and_by_keyword() -> None:
    for kind in {type(models.create(name, num_classes=10)) for name in models.names()}:
        call = inspect.signature(kind.__call__)
        assert list(call.parameters) == ["self", "images", "train"], kind
        train = call.parameters["train"]
        expected = (train.POSITIONAL_OR_KEYWORD, train.empty)
        assert (train.kind, train.default) == expected, kind


def test_flax_transforms_a_network_with_a_static_argument() -> None:
    model, options = create("mlp"), {**CASES["mlp"][1], "num_classes": 10}
    images, rngs = jax.random.normal(KEY, (2, *input_shape("mlp"))), {"dropout": KEY}
    variables = model.init(KEY, images, False)
    for transform, train in ((nn.remat, True), (nn.jit, False)):  # Flax's `jit` draws other masks.
        wrapped = transform(type(model), static_argnums=(2,))(**options)
        logits: Any = wrapped.apply(variables, images, train, rngs=rngs)
        expected: Any = model.apply(variables, images, train, rngs=rngs)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_flax_maps_a_network_over_several_sets_of_parameters(name: str) -> None:
    several = nn.vmap(
        type(create(name)),
        in_axes=(None, None),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        axis_size=3,
    )(**{**models.options(name), **CASES[name][1], "num_classes": 10})
    logits, variables = jax.eval_shape(
        lambda images: several.init_with_output(KEY, images, False), images_of(name)
    )
    assert logits.shape == (3, 2, 10)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables)} == {3}


def test_copies_of_networks_are_equal_and_know_their_name() -> None:
    for name in models.names():
        model = models.create(name, num_classes=10, remat=True)
        for copied in (pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model)):
            assert copied == model, name
            assert hash(copied) == hash(model), name
            assert models.name_of(copied) == name
