"""Tests of the Inception family against NumPy references, and of its auxiliary heads."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import models
from cnn_jax.models import layers
from cnn_jax.train import state

Array = np.ndarray
CLASSES = 10


def random_variables(model: Any, size: int) -> Any:
    rng = np.random.default_rng(0)
    images = np.zeros((1, size, size, 3), np.float32)
    with jax.enable_x64(True):
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> Array:
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        fan_in = leaf.size // leaf.shape[-1]
        return rng.normal(0, (2 / fan_in) ** 0.5 if leaf.ndim > 1 else 0.1, leaf.shape)

    return jax.tree.map_with_path(draw, variables)


def evaluate(name: str, size: int, *, train: bool = False) -> tuple[Any, Any, Any, Array]:
    """Returns float64 logits and updated collections, and the random variables and images."""
    rates = {option: 0.0 for option in models.options(name) if option.endswith("_rate")}
    with jax.enable_x64(True):
        model = models.create(name, num_classes=CLASSES, dtype="float64", **rates)
    # Large values, so that the constants of the normalisation have an effect.
    images = np.random.default_rng(1).normal(0, 30, (2, size, size, 3))
    variables = random_variables(model, size)
    with jax.enable_x64(True):
        result = jax.jit(lambda *args: model.apply(*args, train=train, mutable=["aux_logits"]))(
            jax.tree.map(jnp.asarray, variables), jnp.asarray(images)
        )
    logits, updates = cast("Any", result)
    return np.asarray(logits), updates, variables, images


def assert_equal(result: Any, expected: Array) -> None:
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def windows(x: Array, size: int, stride: int, before: int, after: int, value: float) -> Array:
    """Returns windows `[B, H', W', C, size, size]` of `x`, padded with `value` on both axes."""
    around = (before, after)
    x = np.pad(x, ((0, 0), around, around, (0, 0)), constant_values=value)
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride]


def conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    half = len(kernel) // 2
    view = windows(x, len(kernel), stride, half, half, 0)
    return np.einsum("bhwcij,ijcd->bhwd", view, kernel, optimize=True)


def maximum(x: Array, stride: int) -> Array:
    """Applies 3x3 max pooling with symmetric padding for stride 1 and ceil mode for stride 2."""
    # Ceil mode: a side of an even length needs one more pixel.
    before, after = (1, 1) if stride == 1 else (0, 1 - x.shape[1] % 2)
    return windows(x, 3, stride, before, after, -np.inf).max((-2, -1))


def dense(params: Any, x: Array) -> Array:
    return x @ params["kernel"] + params["bias"]


class GoogLeNet:
    """NumPy reference: Table 1, with the response normalisation of the Caffe model."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def conv(self, x: Array, *path: str, stride: int = 1) -> Array:
        layer = self.params
        for name in path:
            layer = layer[name]
        return np.maximum(conv(x, layer["conv"]["kernel"], stride) + layer["conv"]["bias"], 0)

    def norm(self, x: Array) -> Array:
        channels = range(x.shape[-1])
        energies = [(x[..., max(0, i - 2) : i + 3] ** 2).sum(-1) for i in channels]
        return x / (1 + 1e-4 / 5 * np.stack(energies, -1)) ** 0.75

    def block(self, x: Array, name: str) -> Array:
        name = f"inception{name}"
        three = self.conv(self.conv(x, name, "branch2_0"), name, "branch2_1")
        five = self.conv(self.conv(x, name, "branch3_0"), name, "branch3_1")
        assert self.params[name]["branch3_1"]["conv"]["kernel"].shape[:2] == (5, 5)
        pooled = self.conv(maximum(x, 1), name, "branch4")
        return np.concatenate([self.conv(x, name, "branch1"), three, five, pooled], -1)

    def head(self, x: Array, name: str) -> Array:
        """Applies an auxiliary head to maps of 3x3 pixels, which fit in one pooling window."""
        x = self.conv(x.mean((1, 2), keepdims=True), name, "conv")[:, 0, 0]
        hidden = np.maximum(dense(self.params[name]["fc1"], x), 0)
        return dense(self.params[name]["fc2"], hidden)

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        x = self.norm(maximum(self.conv(x, "conv1", stride=2), 2))
        x = maximum(self.norm(self.conv(self.conv(x, "conv2"), "conv3")), 2)
        x = maximum(self.block(self.block(x, "3a"), "3b"), 2)
        x = self.block(x, "4a")
        shallow = self.head(x, "aux1")
        for name in ("4b", "4c", "4d"):
            x = self.block(x, name)
        deep = self.head(x, "aux2")
        x = self.block(self.block(maximum(self.block(x, "4e"), 2), "5a"), "5b")
        return dense(self.params["fc"], x.mean((1, 2))), shallow, deep


def test_googlenet_equals_a_numpy_reference() -> None:
    logits, updates, variables, images = evaluate("googlenet", 47, train=True)
    expected, shallow, deep = GoogLeNet(variables["params"])(images)
    assert_equal(logits, expected)
    first, second = (updates["aux_logits"][name] for name in sorted(updates["aux_logits"]))
    assert_equal(first, deep)
    assert_equal(second, shallow)


class BNInception:
    """NumPy reference: the nodes of the ONNX model."""

    def __init__(self, variables: Any) -> None:
        self.variables = variables

    def conv(self, x: Array, *path: str, stride: int = 1) -> Array:
        layer, stats = self.variables["params"], self.variables["batch_stats"]
        for name in path:
            layer, stats = layer[name], stats[name]
        x = conv(x, layer["conv"]["kernel"], stride) - stats["bn"]["mean"]
        x = x / np.sqrt(stats["bn"]["var"] + 1e-5) * layer["bn"]["scale"] + layer["bn"]["bias"]
        return np.maximum(x, 0)

    def chain(self, x: Array, block: str, branch: str, count: int, stride: int) -> Array:
        for i in range(count):
            x = self.conv(x, block, f"{branch}_{i}", stride=stride if i == count - 1 else 1)
        return x

    def block(self, x: Array, name: str) -> Array:
        name, reduces = f"inception_{name}", name in ("3c", "4e")
        convolved = [
            self.chain(x, name, "3x3", 2, 2 if reduces else 1),
            self.chain(x, name, "double3x3", 3, 2 if reduces else 1),
        ]
        if reduces:
            return np.concatenate([*convolved, maximum(x, 2)], -1)
        pooled = maximum(x, 1) if name.endswith("5b") else self.mean(x)
        return np.concatenate(
            [self.conv(x, name, "1x1"), *convolved, self.conv(pooled, name, "pool")], -1
        )

    def mean(self, x: Array) -> Array:
        return np.nanmean(windows(x, 3, 1, 1, 1, np.nan), (-2, -1))

    def __call__(self, x: Array) -> Array:
        x = maximum(self.conv(x, "conv1", stride=2), 2)
        x = maximum(self.conv(self.conv(x, "conv2_reduce"), "conv2"), 2)
        for name in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
            x = self.block(x, name)
        return dense(self.variables["params"]["classifier"], x.mean((1, 2)))


@pytest.mark.slow
def test_bn_inception_equals_a_numpy_reference() -> None:
    logits, _, variables, images = evaluate("bn_inception", 64)
    assert_equal(logits, BNInception(variables)(images))


@pytest.mark.parametrize("size", [7, 24, 40])
def test_bn_inception_accepts_images_whose_maps_have_odd_sizes(size: int) -> None:
    model = models.create("bn_inception", num_classes=CLASSES)
    images = jnp.zeros((1, size, size + 1, 3))
    logits, _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, train=False)
    )
    assert logits.shape == (1, CLASSES)


@pytest.mark.parametrize(
    ("name", "parameters", "smallest"),
    [
        ("googlenet", 6_998_552, 31),  # Szegedy et al. 2014, Table 1
        ("googlenet_bn", 6_624_904, 15),  # both from torchvision's documentation
        ("inception_v3", 23_834_568, 75),  # Keras' and torchvision's documentation
    ],
)
def test_without_auxiliary_heads_parameters_and_minimum_size_are_smaller(
    name: str, parameters: int, smallest: int
) -> None:
    model = models.create(name, num_classes=1000, auxiliary_heads=False)

    def init(size: int) -> Any:
        images = jnp.zeros((1, size, size, 3))
        return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    assert state.count(init(smallest)["params"]) == parameters
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels"):
        init(smallest - 1)


@pytest.mark.parametrize(
    "name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)]
)
def test_auxiliary_heads_run_only_in_training(name: str) -> None:
    model = models.create(name, num_classes=CLASSES)
    # The auxiliary head of inception_v3 normalises maps of 1x1 pixel, which takes two images.
    images = jnp.zeros((2, *models.input_shape(name)))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def updates(train: bool) -> Any:
        def apply(variables: Any) -> Any:
            rngs, mutable = {"dropout": jax.random.key(0)}, ["aux_logits", "batch_stats"]
            return model.apply(variables, images, train=train, rngs=rngs, mutable=mutable)[1]

        return jax.eval_shape(apply, variables)

    assert "aux_logits" not in updates(train=False)
    assert {logits.shape for logits in updates(train=True)["aux_logits"].values()} == {(2, CLASSES)}


def test_initial_biases_of_googlenet_are_those_of_caffe() -> None:
    """bvlc_googlenet/train_val.prototxt: 61 layers with biases of 0.2, 3 classifiers with 0."""
    model = models.create("googlenet", num_classes=CLASSES)
    found: dict[str, Any] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, (layers.Conv, nn.Dense)):
            found["/".join(context.module.path)] = context.module.bias_init
        return call(*args, **kwargs)

    images = jnp.zeros((1, 47, 47, 3))
    with nn.intercept_methods(record):
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    values = {path: float(init(jax.random.key(0), (1,))[0]) for path, init in found.items()}
    assert {path for path, value in values.items() if value == 0} == {"fc", "aux1/fc2", "aux2/fc2"}
    assert sorted(values.values()) == [0.0] * 3 + [float(np.float32(0.2))] * 61
