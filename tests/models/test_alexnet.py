"""Tests of the AlexNet family against NumPy references, and of the options of its variants."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, models

Array = np.ndarray
SIZE = 99  # sides after conv1 and the poolings: 23, 11, 5 and 2; in ZFNet 47, 23, 10, 4 and 2
HIDDEN = (24, 20)


def random_variables(model: Any, shape: Sequence[int]) -> Any:
    rng = np.random.default_rng(0)
    images = np.zeros((1, *shape), np.float32)
    with jax.enable_x64(True):
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def draw(leaf: jax.ShapeDtypeStruct) -> Array:
        fan_in = leaf.size // leaf.shape[-1]
        return rng.normal(0, (2 / fan_in) ** 0.5 if leaf.ndim > 1 else 0.1, leaf.shape)

    return jax.tree.map(draw, variables)


def evaluate(name: str, size: int = SIZE, **overrides: Any) -> tuple[Array, dict[str, Any], Array]:
    """Returns float64 logits of a network, and the random parameters and images behind them."""
    with jax.enable_x64(True):
        model = models.create(name, num_classes=10, dtype="float64", hidden=HIDDEN, **overrides)
    shape = (size, size, models.input_shape(name)[2])
    # Large values, so that the constants of the normalisation have an effect.
    images = np.random.default_rng(1).normal(0, 30, (2, *shape))
    variables = random_variables(model, shape)
    with jax.enable_x64(True):
        apply = jax.jit(lambda *arguments: model.apply(*arguments, train=False))
        logits = apply(variables, jnp.asarray(images))
    return np.asarray(cast("jax.Array", logits)), variables["params"], images


@functools.cache
def logits_of(name: str) -> Array:
    """Returns float64 logits of a network without options; several tests need them."""
    return evaluate(name)[0]


def assert_equal(result: Array, expected: Array) -> None:
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def conv(x: Array, kernel: Array, bias: Array, stride: int = 1, padding: int = 0) -> Array:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel, optimize=True) + bias


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def norm(x: Array, k: float, alpha: float) -> Array:
    """Applies the formula of section 3.3 with n = 5 and beta = 0.75, channel by channel."""
    channels = x.shape[-1]
    denominators = [
        k + alpha * (x[..., max(0, i - 2) : min(channels - 1, i + 2) + 1] ** 2).sum(-1)
        for i in range(channels)
    ]
    return x / np.stack(denominators, -1) ** 0.75


def pool(x: Array, ceil_mode: bool = False, window: int = 3) -> Array:
    if ceil_mode and (x.shape[1] - window) % 2:
        x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (window, window), axis=(1, 2))
    return windows[:, ::2, ::2].max((-2, -1))


def dense(params: Any, x: Array) -> Array:
    x = x.reshape(len(x), -1)
    for name in ("fc6", "fc7"):
        x = relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["fc8"]["kernel"] + params["fc8"]["bias"]


class Reference(NamedTuple):
    """Description of a network for `forward`.

    Attributes:
      geometry: stride and padding of each convolution.
      split: numbers of the convolutions with two groups.
      norm_and_pool: normalisation and pooling after conv1 and conv2.
      last_pool: pooling after the last convolution.
    """

    geometry: tuple[tuple[int, int], ...]
    split: frozenset[int]
    norm_and_pool: Callable[[Array], Array]
    last_pool: Callable[[Array], Array] = pool


def geometry(padding: int) -> tuple[tuple[int, int], ...]:
    return ((4, padding), (1, 2), (1, 1), (1, 1), (1, 1))


NONE: frozenset[int] = frozenset()
SPLIT = frozenset({2, 4, 5})
REFERENCES: Mapping[str, Reference] = {
    "alexnet_single": Reference(geometry(0), NONE, lambda x: pool(norm(x, 2, 1e-4))),
    "alexnet_caffe": Reference(geometry(0), SPLIT, lambda x: pool(norm(x, 1, 1e-4 / 5))),
    "caffenet": Reference(geometry(0), SPLIT, lambda x: norm(pool(x), 1, 1e-4 / 5)),
    "alexnet_d2l": Reference(geometry(1), NONE, pool),
    # light_zfnet512.onnx: LRN of size 5, alpha 5e-4 (divided by the size), beta 0.75 and bias 2.
    "zfnet512": Reference(
        ((2, 0), (2, 0), (1, 1), (1, 1), (1, 1)),
        NONE,
        lambda x: pool(norm(x, 2, 5e-4 / 5)),
        lambda x: pool(x, window=2),
    ),
}


def forward(reference: Reference, params: Any, x: Array) -> Array:
    for number, (stride, padding) in enumerate(reference.geometry, 1):
        layer = params[f"conv{number}"]
        parts = 2 if number in reference.split else 1
        inputs = np.split(x, parts, -1)
        kernels = np.split(layer["kernel"], parts, -1)
        biases = np.split(layer["bias"], parts)
        convolved = [
            conv(*each, stride, padding) for each in zip(inputs, kernels, biases, strict=True)
        ]
        x = relu(np.concatenate(convolved, -1))
        x = reference.norm_and_pool(x) if number < 3 else x
    return dense(params, reference.last_pool(x))


@pytest.mark.parametrize("name", REFERENCES)
def test_logits_equal_those_of_a_numpy_reference(name: str) -> None:
    logits, params, images = evaluate(name)
    assert_equal(logits, forward(REFERENCES[name], params, images))


@pytest.mark.parametrize("name", ["alexnet_caffe", "caffenet"])
def test_caffe_rounds_the_number_of_pooling_windows_up(name: str) -> None:
    """Sides after conv1 and the poolings: 22, 11, 5 and 2. Rounded down, they are 10, 4 and 1."""
    first = {"alexnet_caffe": norm_and_pool_of_alexnet, "caffenet": norm_and_pool_of_caffenet}[name]
    reference = Reference(geometry(0), SPLIT, first)
    logits, params, images = evaluate(name, size=96)
    assert params["fc6"]["kernel"].shape[0] == 2 * 2 * 256
    assert_equal(logits, forward(reference, params, images))


def norm_and_pool_of_alexnet(x: Array) -> Array:
    return pool(norm(x, 1, 1e-4 / 5), ceil_mode=True)


def norm_and_pool_of_caffenet(x: Array) -> Array:
    return norm(pool(x, ceil_mode=True), 1, 1e-4 / 5)


# Sides after conv1 and after each pooling. `alexnet`: cuda-convnet's layer.py; Caffe's
# pooling_layer.cpp rounds up; zfnet512: shapes of light_zfnet512.onnx in onnx 1.16.2.
@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("alexnet", 227, (27, 13, 6)),
        ("alexnet", 224, (27, 13, 6)),
        ("alexnet_single", 224, (27, 13, 6)),
        ("alexnet_caffe", 227, (27, 13, 6)),
        ("alexnet_caffe", 224, (27, 13, 6)),  # fc6 has 9,216 inputs.
        ("caffenet", 224, (27, 13, 6)),
        ("alexnet_owt", 224, (27, 13, 6)),
        ("alexnet_owt", 220, (26, 12, 5)),  # torchvision rounds down; conv1 has 54x54 pixels.
        ("alexnet_d2l", 224, (26, 12, 5)),
        ("zfnet512", 224, (54, 12, 6)),
    ],
)
def test_sizes_of_pooled_maps_are_those_of_the_source(
    name: str, size: int, sides: tuple[int, int, int]
) -> None:
    model = models.create(name, num_classes=10, hidden=HIDDEN)
    images = jax.ShapeDtypeStruct((1, size, size, models.input_shape(name)[2]), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    found = jax.eval_shape(lambda v, x: models.features(model, v, x), variables, images)
    assert tuple(found[f"stage{number}"].shape[1] for number in (1, 2, 5)) == sides


@pytest.mark.parametrize("windows", [(3, 3), (3, 3, 1)])
def test_windows_that_are_not_three_are_an_error(windows: tuple[int, ...]) -> None:
    with pytest.raises(errors.UserError, match=r"model\.pooling_windows must hold three windows"):
        models.create("alexnet", num_classes=10, pooling_windows=windows)


def test_alexnet_equals_two_towers_that_meet_in_conv3_and_the_dense_layers() -> None:
    logits, params, images = evaluate("alexnet")

    def half(name: str, tower: int) -> tuple[Array, Array]:
        count = len(params[name]["bias"]) // 2
        kernels = slice(tower * count, (tower + 1) * count)
        return params[name]["kernel"][..., kernels], params[name]["bias"][kernels]

    def up_to_conv2(tower: int) -> Array:
        x = relu(conv(images, *half("conv1", tower), stride=4))
        x = pool(norm(x, 2, 1e-4))  # 48 maps
        x = relu(conv(x, *half("conv2", tower), padding=2))
        return pool(norm(x, 2, 1e-4))  # 128 maps

    def from_conv3(x: Array, tower: int) -> Array:
        x = relu(conv(x, *half("conv3", tower), padding=1))  # 192 maps, from the maps of both
        x = relu(conv(x, *half("conv4", tower), padding=1))
        return pool(relu(conv(x, *half("conv5", tower), padding=1)))

    both = np.concatenate([up_to_conv2(0), up_to_conv2(1)], -1)
    maps = np.concatenate([from_conv3(both, 0), from_conv3(both, 1)], -1)
    assert_equal(logits, dense(params, maps))


@pytest.mark.parametrize(
    ("name", "overlapping", "disjoint"),
    [
        ("alexnet", 6, 7),  # sides 55, 27, 13, 6; disjoint 55, 28, 14, 7
        ("alexnet_single", 6, 7),
        ("alexnet_caffe", 6, 7),
        ("caffenet", 6, 7),
        ("alexnet_owt", 6, 6),
        ("alexnet_d2l", 5, 6),  # sides 54, 26, 12, 5; disjoint 54, 27, 13, 6
        ("zfnet512", 6, 6),  # sides 109, 54, 25, 12, 6; disjoint 109, 54, 25, 12, 6
    ],
)
def test_fc6_input_has_nearly_the_same_size_without_overlapping_pooling(
    name: str, overlapping: int, disjoint: int
) -> None:
    def side(**overrides: Any) -> float:
        model = models.create(name, num_classes=1000, **overrides)
        images = jnp.zeros((1, *models.input_shape(name)))
        params: Any = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))[
            "params"
        ]
        return (params["fc6"]["kernel"].shape[0] / params["conv5"]["bias"].size) ** 0.5

    assert (side(), side(overlapping_pooling=False)) == (overlapping, disjoint)


@pytest.mark.parametrize(
    ("name", "ablation"),
    [
        ("alexnet", {"local_response_norm": False}),
        ("alexnet", {"overlapping_pooling": False}),
        ("alexnet", {"activation": "tanh"}),
        ("alexnet_owt", {"local_response_norm": True}),
        ("caffenet", {"pool_first": False}),
    ],
)
def test_ablation_changes_the_logits(name: str, ablation: dict[str, Any]) -> None:
    logits = logits_of(name)
    ablated, _, _ = evaluate(name, **ablation)
    assert np.abs(logits - ablated).max() > 1e-3 * np.abs(logits).max()


def test_initial_weights_follow_the_paper() -> None:
    model = models.create("alexnet", num_classes=10, hidden=HIDDEN)
    images = jnp.zeros((1, SIZE, SIZE, 3))
    params: Any = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, layer in params["params"].items():
        kernel = np.asarray(layer["kernel"])
        assert abs(kernel.mean()) < 5 * 0.01 / kernel.size**0.5
        np.testing.assert_allclose(kernel.std(), 0.01, rtol=5 / kernel.size**0.5)
        np.testing.assert_array_equal(layer["bias"], float(name in ones))


@pytest.mark.parametrize(("name", "before"), [("alexnet", False), ("alexnet_owt", True)])
def test_dropout_is_before_the_hidden_layers_in_torchvision_and_after_them_in_the_paper(
    name: str, before: bool
) -> None:
    """Every unit of fc7 is 1 before dropout, and fc8 sums its 40 units.

    The sum is always 40 if dropout does not act on the outputs of fc7.
    """
    model = models.create(name, num_classes=1, hidden=(8, 40))
    shape = (SIZE, SIZE, 3)
    params = jax.tree.map(np.zeros_like, random_variables(model, shape)["params"])
    params["fc7"]["bias"] += 1
    params["fc8"]["kernel"] += 1

    @jax.jit
    def apply(key: jax.Array) -> Any:
        images = jnp.zeros((1, *shape))
        return model.apply({"params": params}, images, train=True, rngs={"dropout": key})

    sums = np.asarray([apply(jax.random.key(key)) for key in range(4)])
    assert np.all(sums == 40) == before
