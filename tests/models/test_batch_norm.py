"""Tests of batch normalisation in training: each channel needs two values, in every network."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from cnn_jax import errors, models
from cnn_jax.models import layers
from tests.models.test_structure import CASES, RNGS, create, init_shapes, variables_of
from tests.models.test_transformations import DEEP
from tests.networks import NETWORKS

NORMALIZED = [name for name in CASES if name not in DEEP and "batch_stats" in variables_of(name)]


def trace(model: nn.Module, images: jax.ShapeDtypeStruct, train: bool) -> None:
    """Traces `model` on `images`."""

    def apply(variables: Any, images: jax.Array) -> Any:
        mutable = ["batch_stats", "aux_logits"]
        return model.apply(variables, images, train=train, rngs=RNGS, mutable=mutable)

    jax.eval_shape(apply, init_shapes(model, images), images)


def normalized_shapes(model: nn.Module, images: jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """Returns the input shape of each batch normalisation in evaluation, by path."""
    found: dict[str, tuple[int, ...]] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, layers.BatchNorm) and context.method_name == "__call__":
            found["/".join(context.module.path)] = args[0].shape
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        trace(model, images, train=False)
    return found


@pytest.mark.parametrize("name", NORMALIZED)
def test_an_error_names_the_first_layer_with_one_value_per_channel(name: str) -> None:
    model, side = create(name), NETWORKS[name].smallest
    image, two = (
        jax.ShapeDtypeStruct((count, side, side, models.input_shape(name)[2]), jnp.float32)
        for count in (1, 2)
    )
    layer, shape = next(
        (item for item in normalized_shapes(model, image).items() if item[1][:-1] == (1, 1, 1)),
        ("", ()),
    )
    # VGG pools after its last normalisation. The small DenseNet has only one transition.
    assert bool(layer) == (name not in ("vgg11_bn", "densenet121"))
    if layer:
        message = f"got an input of shape {re.escape(str([*shape]))} for the layer {layer};"
        with pytest.raises(errors.UserError, match=message):
            trace(model, image, train=True)
    trace(model, two, train=True)


def test_values_are_counted_over_the_devices_that_share_the_statistics() -> None:
    """Auto and Explicit axes share them; in a `shard_map` each device has its own."""
    module, split = layers.BatchNorm(use_running_average=False), PartitionSpec("data")
    x = jax.ShapeDtypeStruct((2, 1, 1, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(RNGS, x), x)

    def apply(variables: Any, x: jax.Array) -> Any:
        return module.apply(variables, x, mutable=["batch_stats"])[0]

    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = AbstractMesh((2,), ("data",), axis_types=(kind,))
        placed = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, split))
        with jax.sharding.use_abstract_mesh(mesh):
            y = jax.eval_shape(apply, variables, placed)
        assert y.shape == x.shape
    mapped = jax.shard_map(
        apply, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
    )
    with pytest.raises(errors.UserError, match=r"of shape \[1, 1, 1, 3\] for the layer BatchNorm;"):
        jax.eval_shape(mapped, variables, placed)
