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
from tests.models.test_structure import CASES, DEEP, RNGS, create, variables_of
from tests.networks import NETWORKS

UNNORMALIZED = (
    *("logistic_regression", "mlp", "lenet", "lenet5", "fashion_cnn", "cuda_convnet_18pct"),
    *("alexnet", "nin_cifar", "squeezenet1_1", "googlenet", "convnext_tiny"),
    *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
)
each_normalized = pytest.mark.parametrize(
    "name", [name for name in CASES if name not in (*DEEP, *UNNORMALIZED)]
)


def trace(model: nn.Module, variables: Any, images: jax.ShapeDtypeStruct) -> None:
    """Traces `model` on `images` in training mode."""

    def apply(variables: Any, images: jax.Array) -> Any:
        mutable = ["batch_stats", "aux_logits"]
        return model.apply(variables, images, train=True, rngs=RNGS, mutable=mutable)

    jax.eval_shape(apply, variables, images)


@each_normalized
def test_an_error_names_the_first_layer_with_one_value_per_channel(name: str) -> None:
    model, variables, side = create(name), variables_of(name), NETWORKS[name].smallest
    image, two = (
        jax.ShapeDtypeStruct((count, side, side, models.input_shape(name)[2]), jnp.float32)
        for count in (1, 2)
    )
    found: dict[str, tuple[int, ...]] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, layers.BatchNorm) and context.method_name == "__call__":
            found["/".join(context.module.path)] = args[0].shape
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        trace(model, variables, two)
    layer = next((path for path, shape in found.items() if shape[:-1] == (2, 1, 1)), "")
    # VGG pools after its last normalisation. The small DenseNet has only one transition.
    assert bool(layer) == (name not in ("vgg11_bn", "densenet121"))
    if layer:
        shape = re.escape(str([1, *found[layer][1:]]))
        message = f"got an input of shape {shape} for the layer {layer};"
        with pytest.raises(errors.UserError, match=message):
            trace(model, variables, image)


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
