"""Exported StableHLO and ONNX files against the networks, and the rules of the ONNX export."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen as nn

from cnn_jax import errors, export, models
from cnn_jax.export.onnx import graph
from cnn_jax.export.onnx.convert import convert
from tests.export import networks
from tests.networks import NETWORKS

# Small networks with different kinds of layers: their options and the size of their images.
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "fashion_cnn": ({}, 28),
    "resnet18": ({"stage_sizes": (1, 1), "widths": (8, 12)}, 20),
    "vit_tiny_patch16_224": ({"depth": 1, "width": 16, "heads": 2, "patch_size": 8}, 16),
}
# The smallest variant of each kind of network. Networks of one file differ in sizes only, or in
# parts that others of the list have.
SMALLEST = (
    *("logistic_regression", "mlp", "lenet", "lenet5", "fashion_cnn", "cuda_convnet_quick"),
    *("cuda_convnet_18pct", "nin_cifar", "alexnet", "alexnet_owt", "alexnet_d2l", "zfnet512"),
    *("vgg11", "vgg11_bn", "squeezenet1_1", "googlenet", "googlenet_bn", "bn_inception"),
    *("inception_v3", "inception_v4", "inception_resnet_v2", "resnet18", "resnet20", "resnet50d"),
    *("resnext50_32x4d", "plain18", "resnetv2_50", "resnetv2_50_keras", "wrn_16_8", "xception"),
    *("legacy_seresnet50", "seresnet50", "senet154", "densenet121", "cspresnet50", "cspdarknet53"),
    *("mobilenetv1_025", "mobilenetv2_035", "mobilenetv3_small_075", "shufflenet_v2_x0_5"),
    *("efficientnet_b0", "efficientnet_lite0", "tf_efficientnet_b0", "tf_efficientnet_lite0"),
    *("convnext_tiny", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
)


def run_onnx(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Returns the logits of ONNX Runtime, computed in batches of one and of the rest."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"pixels": part})[0] for part in (pixels[:1], pixels[1:])]
    return np.concatenate(parts)


@pytest.mark.parametrize("name", SMALL)
def test_onnx_runtime_computes_the_same_logits_for_any_batch_size(
    name: str, tmp_path: Path
) -> None:
    options, size = SMALL[name]
    network = networks.make(name, size, **options)
    export.to_onnx(network, tmp_path / "network.onnx")
    pixels = networks.pixels(network, 3)
    found = run_onnx(tmp_path / "network.onnx", pixels)
    assert networks.error(found, network(pixels).logits) < 1e-5
    description = json.loads((tmp_path / "network.onnx.json").read_text())
    assert description["network"] == name
    assert description["class_names"] == list(network.class_names)
    (stored,) = onnx.load(tmp_path / "network.onnx").metadata_props
    assert json.loads(stored.value) == description


def test_float_pixels_are_numbers_from_0_to_1(tmp_path: Path) -> None:
    network = networks.make("fashion_cnn", 28)
    export.to_onnx(network, tmp_path / "network.onnx", pixels="float32")
    pixels = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    found = run_onnx(tmp_path / "network.onnx", pixels)
    assert networks.error(found, network(pixels).logits) < 1e-5
    assert json.loads((tmp_path / "network.onnx.json").read_text())["input"]["range"] == [0, 1]


def test_a_network_in_bfloat16_is_exported_in_float32(tmp_path: Path) -> None:
    network = networks.make("fashion_cnn", 28, dtype="bfloat16")
    export.to_onnx(network, tmp_path / "network.onnx")
    pixels = networks.pixels(network, 2)
    found = run_onnx(tmp_path / "network.onnx", pixels)
    expected = networks.make("fashion_cnn", 28)(pixels).logits
    assert networks.error(found, expected) < 1e-5
    assert networks.error(found, network(pixels).logits) > 1e-4
    assert json.loads((tmp_path / "network.onnx.json").read_text())["computation"] == "float32"


@pytest.mark.slow
def test_a_file_for_jax_has_its_platforms_and_no_kernels(tmp_path: Path) -> None:
    network = networks.make("resnet18", 20, stage_sizes=(1, 1), widths=(8, 12))
    export.to_jax(network, tmp_path / "network.jax")
    exported = jax.export.deserialize(bytearray((tmp_path / "network.jax").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    calls = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
    assert calls <= {"shape_assertion"}  # of the batch size, which JAX checks
    description = json.loads((tmp_path / "network.jax.json").read_text())
    inside = description["preprocessing"]["inside"]
    assert inside["mean"] == [0.45, 0.5, 0.4]
    # The formula of the description gives the network's inputs.
    pixels = networks.pixels(network, 3)
    scaled = (pixels / description["input"]["range"][1] - inside["mean"]) / inside["std"]
    np.testing.assert_allclose(scaled, network.preprocess(pixels), rtol=1e-5, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("name", SMALLEST)
def test_onnx_runtime_computes_the_same_logits_for_every_kind_of_network(
    name: str, tmp_path: Path
) -> None:
    network = networks.make(name, NETWORKS[name].size)
    export.to_onnx(network, tmp_path / "network.onnx")
    pixels = networks.pixels(network, 3)
    found = run_onnx(tmp_path / "network.onnx", pixels)
    assert networks.error(found, network(pixels).logits) < 1e-5


def test_the_list_of_smallest_variants_has_every_kind_of_network() -> None:
    kinds = {type(models.create(name, num_classes=3)) for name in SMALLEST}
    assert kinds == {type(models.create(name, num_classes=3)) for name in models.names()}


def functions() -> dict[str, Any]:
    """Returns functions of `x` `[B, 6, 5, 4]`, each with the rules of a few primitives."""
    kernel: Any = np.random.default_rng(2).standard_normal((3, 2, 2, 6)).astype(np.float32)
    return {
        "convolution": lambda x: jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 1),
            ((0, 2), (3, 1)),
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        ),
        "other layouts": lambda x: jax.lax.conv_general_dilated(
            x.transpose(0, 3, 1, 2),
            kernel.transpose(3, 2, 0, 1)[:, :, :1],
            (1, 1),
            "SAME",
            feature_group_count=2,
        ),
        "largest": lambda x: nn.max_pool(x, (3, 2), (2, 1), ((1, 1), (1, 0))),
        "sum": lambda x: nn.avg_pool(x, (3, 2), (1, 2), ((2, 0), (0, 1))),
        "of channels": lambda x: jax.lax.reduce_window(
            x, 0.0, jax.lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME"
        ),
        "attention": lambda x: jax.nn.softmax(jnp.einsum("bhwc,bhvc->bhwv", x, x)) @ x,
        "of both sides": lambda x: jnp.einsum("bhwc,dw->dbch", x, kernel[0, 0, :, :5]),
        "parts": lambda x: jnp.concatenate([x[:, ::2, ::2], x[:, 1:4, :3]], 2),
        "entry": lambda x: x[:, 2] * x[:, -1],
        "entries": lambda x: x[:, np.array([[3, 1], [0, 5]])].sum(3),
        "roll": lambda x: jnp.roll(x, (-2, 1), (1, 2)),
        "split": lambda x: jnp.stack(jnp.split(x, 2, 3)[::-1], 1),
        "unstacked": lambda x: sum(i * part for i, part in enumerate(jnp.unstack(x, axis=2))),
        "edges": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (3, 0)), constant_values=1.5),
        "activations": lambda x: (
            nn.gelu(x, approximate=False) + nn.gelu(x) + nn.hard_swish(x) + nn.elu(x) + nn.silu(x)
        ),
        "choices": lambda x: jnp.where((x > 0.5) | (x < -1), jnp.tanh(x), x.clip(-0.25, 2)),
        "powers": lambda x: jnp.abs(x) ** 0.75 + x**3 + jax.lax.rsqrt(jnp.square(x) + 1),
        "repeated": lambda x: jnp.broadcast_to(kernel[0, 0, 0, :4], (x.shape[0], 1, 4)) + x.mean(1),
        "merged": lambda x: x.reshape(-1, 5, 4).max(1).reshape(-1, 6, 4) - x.min((2,)),
    }


@pytest.mark.parametrize("name", functions())
def test_each_rule_computes_what_jax_computes(name: str) -> None:
    function = functions()[name]
    (batch,) = jax.export.symbolic_shape("batch")
    shape = (batch, 6, 5, 4)
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, jnp.float32))
    built = graph.Graph(shape, "float32")
    (found,) = convert(built, closed, [built.pixels])
    content = built.model(found, graph.shape_of(closed.jaxpr.outvars[0]), {})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = np.random.default_rng(count).standard_normal((count, 6, 5, 4)).astype(np.float32)
        expected = np.asarray(function(jnp.asarray(x)))
        np.testing.assert_allclose(session.run(None, {"pixels": x})[0], expected, 1e-5, 2e-6)


class Unusual(nn.Module):
    """A network with an operation, or a dtype, that ONNX export does not support."""

    operation: Any
    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(self.num_classes)(self.operation(images.reshape(images.shape[0], -1)))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (jnp.sort, "the primitive 'sort' has no ONNX rule; supported are "),
        (lambda x: x.astype(jnp.int8), "computes in int8, and ONNX export supports float32, "),
        (
            lambda x: jnp.concatenate([x, x[:1]]),
            re.escape("returns logits [batch + 1, 3] for a batch"),
        ),
        (lambda x: x * len(x), "cannot be traced for every batch size"),
    ],
)
def test_what_has_no_rule_is_named(operation: Any, message: str, tmp_path: Path) -> None:
    model = Unusual(operation)
    small = networks.make("fashion_cnn", 28)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)

    def predict(variables: Any, batch: Any) -> Any:
        return {"logits": model.apply(variables, batch["image"], train=False)}

    network = dataclasses.replace(small, predict=predict, variables=variables, model=None)
    with pytest.raises(errors.UserError, match=message):
        export.to_onnx(network, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())
