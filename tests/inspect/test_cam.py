"""Tests of Grad-CAM, integrated gradients and occlusion: closed forms and pytorch-grad-cam."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import errors, inspect, models, pretrained
from cnn_jax.models import layers
from cnn_jax.predictor import Predictor
from tests.golden import fill
from tests.inspect.small import SHAPE, Linear, Pooling, images, logits_of, make
from tests.networks import NETWORKS

GOLDEN = Path(__file__).parents[1] / "golden" / "inspect" / "grad_cam.json"

# Grad-CAM


def test_grad_cam_is_cam_for_global_average_pooling_and_a_dense_layer() -> None:
    network, inputs = make(Pooling()), images()
    found = inspect.grad_cam(network, inputs, ["a", 2])
    maps = models.features(network.model, network.variables, jnp.asarray(inputs))["stage"]
    kernel = network.variables["params"]["fc"]["kernel"]
    cam = np.einsum("nhwc,cn->nhw", maps, kernel[:, [0, 2]])  # Zhou et al. 2016, eq. 2
    np.testing.assert_allclose(found.raw * 8 * 12, np.maximum(cam, 0), rtol=1e-4, atol=1e-6)
    assert found.stage == "stage"
    assert found.targets.tolist() == [0, 2]
    assert found.maps.shape == (2, 8, 12)
    assert found.maps.max((1, 2)) == pytest.approx(1)
    assert found.maps.min((1, 2)) == pytest.approx(0)


def test_grad_cam_takes_the_most_probable_class_by_default() -> None:
    network, inputs = make(Pooling()), images(3)
    found = inspect.grad_cam(network, inputs)
    logits = logits_of(network, inputs)
    assert found.targets.tolist() == logits.argmax(-1).tolist()
    named = inspect.grad_cam(network, inputs, [int(one) for one in found.targets], "stage")
    np.testing.assert_array_equal(found.raw, named.raw)


class Attending(nn.Module):
    """Patches and a class token, one attention block, and a dense layer on the class token."""

    num_classes: int = 3
    mean: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        patches = layers.feature(self, "stem", nn.Conv(4, (4, 4), 4, name="patches")(images))
        x = patches.reshape(len(images), -1, 4)
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, 4))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
        x += nn.MultiHeadDotProductAttention(1, name="attention")(nn.LayerNorm(name="norm")(x))
        self.sow("features", "last", x[:, 1:].reshape(patches.shape))
        x += nn.relu(nn.Dense(4, name="mlp")(x))
        self.sow("features", "end", x[:, 1:].reshape(patches.shape))
        return nn.Dense(self.num_classes, name="fc")(x.mean(1) if self.mean else x[:, 0])


def test_the_default_stage_of_a_class_token_is_before_the_last_attention() -> None:
    inputs = images()
    network = make(Attending())
    found = inspect.grad_cam(network, inputs, 1)
    assert found.stage == "norm"
    assert found.raw.shape == (2, 2, 3)
    assert inspect.grad_cam(make(Attending(mean=True)), inputs, 1).stage == "end"
    with pytest.raises(errors.UserError, match="choose an earlier one, such as 'norm'"):
        inspect.grad_cam(network, inputs, 1, "last")


def test_the_gradient_of_a_slice_of_tokens_is_that_of_its_tokens() -> None:
    """By hand: the mean over tokens and a dense layer have the same gradient at every token."""
    network, inputs = make(Attending(mean=True)), images(1)
    _, found = inspect.values.gradients(
        network.model, network.variables, jnp.asarray(inputs), ["end"], lambda x: x[0, 1]
    )
    kernel = network.variables["params"]["fc"]["kernel"]
    slopes = np.broadcast_to(kernel[:, 1] / 7, (1, 2, 3, 4))  # six patches and the class token
    np.testing.assert_allclose(found["end"][1], slopes, rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "stage", "message"),
    [
        ("d", None, "unknown class 'd' of 3 classes; nearest: .*; an index is allowed too"),
        (3, None, "class 3 does not exist; the network has the classes 0 to 2"),
        ([0], None, "1 classes are given for 2 images"),
        (0, "stages", "unknown stage 'stages'; endpoints: stage, pooled; .* nearest: stage"),
        (
            0,
            "pooled",
            r"has no height and width, its shape is \[1, 5\]; .*both: stage",
        ),
    ],
)
def test_unknown_classes_and_stages_are_refused(target: Any, stage: str, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        inspect.grad_cam(make(Pooling()), images(), target, stage)


CASES = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"cases": []}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", CASES["cases"], ids=lambda case: f"{case['name']}-{case['stage']}".replace("/", "-")
)
def test_grad_cam_equals_pytorch_grad_cam(case: Any) -> None:
    name, shape = case["name"], (*case["size"], 3)
    weights = {key: fill.weight(key, tuple(size), CASES["gain"]) for key, size in case["state"]}
    with jax.enable_x64(True):
        variables = pretrained.from_torch(name, weights, num_classes=10, input_shape=shape)
        model = models.create(name, num_classes=10, dtype="float64")
        network = make(model, shape, variables)
        inputs = fill.images((len(CASES["targets"]), *shape))
        names = tuple(map(str, range(10)))
        network = Predictor(**{**network.__getstate__(), "class_names": names})
        stage = None if case["stage"] in ("stage4", "blocks_11/norm1") else case["stage"]
        found = inspect.grad_cam(network, inputs, CASES["targets"], stage)
    assert found.stage == case["stage"]
    every = CASES["every"]
    # pytorch-grad-cam scales the maps in float32.
    np.testing.assert_allclose(found.maps[:, ::every, ::every], case["maps"], atol=5e-6)
    assert found.maps.mean() == pytest.approx(case["mean"], rel=1e-5)


# Integrated gradients


def test_integrated_gradients_of_a_linear_network_are_input_times_weight() -> None:
    network, inputs = make(Linear()), images()
    found = inspect.integrated_gradients(network, inputs, 1, baseline=0.5, steps=3)
    kernel = np.asarray(network.variables["params"]["fc"]["kernel"])[:, 1].reshape(SHAPE)
    np.testing.assert_allclose(found.values, (inputs - 0.5) * kernel, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_add_up_to_the_difference_of_the_logits() -> None:
    network, inputs = make(Pooling()), images()
    found = inspect.integrated_gradients(network, inputs, ["a", "b"], steps=200)
    logits = logits_of(network, inputs)
    start = logits_of(network, 0 * inputs)
    differences = [float(logits[at, at] - start[at, at]) for at in range(2)]
    np.testing.assert_allclose(found.differences, differences, rtol=1e-4)
    np.testing.assert_allclose(found.values.sum((1, 2, 3)), differences, rtol=2e-3)
    np.testing.assert_allclose(
        found.errors, found.values.sum((1, 2, 3)) - found.differences, atol=1e-12
    )


def test_integrated_gradients_of_a_square_are_exact() -> None:
    """By hand: for f(x) = (w x)^2 and the baseline 0, they are (w x) w_i x_i."""

    class Square(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
            return jnp.square(Linear(name="linear")(images, train=train))

    network, inputs = make(Square()), images()
    found = inspect.integrated_gradients(network, inputs, 0, steps=5)
    kernel = np.asarray(network.variables["params"]["linear"]["fc"]["kernel"])[:, 0]
    terms = inputs * kernel.reshape(SHAPE)
    expected = terms.sum((1, 2, 3), keepdims=True) * terms
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-4)


# Occlusion


def test_occlusion_of_a_linear_network_is_the_sum_over_the_window() -> None:
    network, inputs = make(Linear()), images()
    found = inspect.occlusion(network, inputs, 2, window=4, stride=3, fill=1.0)
    kernel = np.asarray(network.variables["params"]["fc"]["kernel"])[:, 2].reshape(SHAPE)
    rows, columns = (0, 3, 4), (0, 3, 6, 8)  # The last window ends at the border.
    assert found.drops.shape == (2, 3, 4)
    lost = (inputs - 1) * kernel
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected = lost[:, row : row + 4, column : column + 4].sum((1, 2, 3))
            np.testing.assert_allclose(found.drops[:, i, j], expected, rtol=1e-3, atol=1e-4)
    # Pixel (3, 0) lies in the windows of the rows 0 and 3; pixel (7, 11) in one window.
    np.testing.assert_allclose(found.maps[:, 3, 0], found.drops[:, :2, 0].mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.maps[:, 7, 11], found.drops[:, 2, 3], rtol=1e-5)


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [(9, 1, "window must be from 1 to 8"), (2, 3, "stride must be from 1 to the window, 2")],
)
def test_windows_that_do_not_fit_are_refused(window: int, stride: int, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        inspect.occlusion(make(Linear()), images(), window=window, stride=stride)


# Stages of all families

FAMILIES = (
    *("lenet5", "fashion_cnn", "cuda_convnet_quick", "alexnet", "nin_cifar", "vgg11_bn"),
    *("squeezenet1_1", "googlenet", "bn_inception", "resnet18", "resnetv2_50", "wrn_16_8"),
    *("seresnet50", "xception", "densenet121", "mobilenetv3_small_075", "shufflenet_v2_x0_5"),
    *("cspresnet50", "efficientnet_b0", "convnext_tiny", "vit_tiny_patch16_224"),
    "swin_tiny_patch4_window7_224",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_logits_depend_on_every_endpoint(name: str) -> None:
    model, size = models.create(name, num_classes=10), NETWORKS[name].size
    inputs = jax.ShapeDtypeStruct((1, size, size, models.input_shape(name)[2]), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), inputs)
    traced = inspect.values.trace(model, variables, inputs)
    endpoints = list(models.endpoints(model, inputs.shape[1:]))
    assert list(traced.endpoints) == endpoints
    assert [stage for stage in endpoints if not inspect.values.is_reached(traced, stage)] == []
    sizes = inspect.values.map_sizes(traced, inputs.shape)
    for stage in endpoints:
        shape = traced.variable(stage).aval.shape
        assert sizes.get(stage) == (shape[1:3] if len(shape) == 4 else None)
