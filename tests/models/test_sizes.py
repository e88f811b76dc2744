"""Tests of networks with images of another size than their parameters, and with empty batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import errors, models
from cnn_jax.models import shapes
from tests.models import test_structure

Array = np.ndarray


def adaptive_pool(x: Array, size: tuple[int, int]) -> Array:
    """Applies torch's adaptive average pooling, window by window."""
    pooled = np.empty((len(x), *size, x.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            window = [
                slice(int(np.floor(k * length / n)), int(np.ceil((k + 1) * length / n)))
                for k, length, n in zip((i, j), x.shape[1:3], size, strict=True)
            ]
            pooled[:, i, j] = x[:, window[0], window[1]].mean((1, 2))
    return pooled


@pytest.mark.parametrize("size", [(4, 4), (7, 7), (2, 5)])
@pytest.mark.parametrize(("height", "width"), [(1, 2), (3, 4), (5, 8), (14, 7), (16, 9)])
def test_adaptive_pool_averages_from_the_rounded_down_start_to_the_rounded_up_end(
    height: int, width: int, size: tuple[int, int]
) -> None:
    x = np.random.default_rng(0).normal(size=(2, height, width, 3))
    with jax.enable_x64(True):
        pooled = jax.jit(lambda x: shapes.adaptive_pool(x, size))(x)
    np.testing.assert_allclose(pooled, adaptive_pool(x, size), rtol=1e-12)


def test_flatten_makes_channels_vary_fastest() -> None:
    x = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(shapes.flatten(x), np.arange(120).reshape(2, 60))
    assert shapes.flatten(x[:0]).shape == (0, 60)


def random_variables(model: nn.Module, images: jax.ShapeDtypeStruct) -> Any:
    rng = np.random.default_rng(0)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)

    def draw(leaf: jax.ShapeDtypeStruct) -> Array:
        values = rng.standard_normal(leaf.shape, np.float32)
        return values * np.float32((2 / (leaf.size // leaf.shape[-1])) ** 0.5)

    return jax.tree.map(draw, variables)


# Small networks of both families; fc6 of published images takes maps of 6x6 and of 7x7 pixels. The
# maps of 159x319 pixels are 4x9: as many as 6x6, but pooled.
@pytest.mark.parametrize(
    ("name", "options", "dense", "sizes"),
    [
        (
            "alexnet_owt",
            {"hidden": (24, 20)},
            ("fc6", "fc7", "fc8"),
            {(224, 224): (6, 6), (63, 95): (1, 2), (159, 319): (4, 9)},
        ),
        pytest.param(
            "vgg11",
            {"depths": (1,) * 5, "widths": (2, 2, 2, 2, 4)},
            ("fc6", "fc7", "fc8"),
            {(224, 224): (7, 7), (32, 32): (1, 1), (416, 130): (13, 4)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_images_of_other_sizes_are_pooled_to_the_maps_of_the_published_size(
    name: str, options: Any, dense: tuple[str, ...], sizes: dict[tuple[int, int], Any]
) -> None:
    model = models.create(name, num_classes=10, **options)
    published, *_ = sizes
    variables = random_variables(model, jax.ShapeDtypeStruct((1, *published, 3), jnp.float32))

    @jax.jit
    def compute(images: jax.Array) -> Any:
        logits = model.apply(variables, images, train=False)
        return logits, models.features(model, variables, images)["stage5"]

    for size, maps in sizes.items():
        images = np.random.default_rng(1).standard_normal((2, *size, 3), np.float32)
        logits, x = map(np.asarray, compute(images))
        assert x.shape[1:3] == maps
        y = adaptive_pool(x, sizes[published]).reshape(2, -1)
        for layer in dense:
            params = variables["params"][layer]
            y = (y if layer == dense[0] else np.maximum(y, 0)) @ params["kernel"] + params["bias"]
        np.testing.assert_allclose(logits, y, rtol=0, atol=1e-5 * np.abs(y).max())


def test_parameters_for_small_images_keep_their_shape() -> None:
    # Old checkpoints of VGG for 32x32 pixels have 512 inputs; torchvision always has 25,088.
    model = models.create("vgg11", num_classes=10)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables: Any = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), images)
    assert variables["params"]["fc6"]["kernel"].shape == (512, 4096)
    wide = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    logits: Any = jax.eval_shape(lambda v, x: model.apply(v, x, False), variables, wide)
    assert logits.shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("mlp", {}, "hidden1"),
        ("mlp", {"widths": ()}, "output"),
        ("logistic_regression", {}, "output"),
        ("lenet", {}, "C5"),
        ("lenet5", {}, "C5"),
        ("fashion_cnn", {}, "dense1"),
        ("cuda_convnet_quick", {}, "fc64"),
        ("cuda_convnet_18pct", {}, "fc10"),
        ("googlenet", {}, "fc1"),  # of an auxiliary head, which only training computes
        ("vit_tiny_patch16_224", {"depth": 1}, "pos_embed"),
    ],
)
def test_an_error_names_the_image_size_that_parameters_do_not_fit(
    name: str, options: Any, parameters: str
) -> None:
    model = models.create(name, num_classes=10, **options)
    height, width, channels = models.input_shape(name)
    images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    others = jax.ShapeDtypeStruct((1, height + 32, width + 64, channels), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)

    def apply(variables: Any, images: Any) -> Any:
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, rngs=rngs, mutable=["aux_logits"])

    message = (
        f"the parameters of {parameters} are for images of another size: .*"
        f"images of {height + 32}x{width + 64}x{channels} .height, width, channels. give"
    )
    with pytest.raises(errors.UserError, match=message):
        jax.eval_shape(apply, variables, others)


# The layers of the deepest networks are those of other networks.
@pytest.mark.parametrize("name", sorted({*test_structure.CASES} - {*test_structure.DEEP}))
def test_an_empty_batch_has_no_logits(name: str) -> None:
    model, shape = test_structure.create(name), test_structure.input_shape(name)
    images = jax.ShapeDtypeStruct((0, *shape), jnp.float32)
    variables = test_structure.variables_of(name)
    logits: Any = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    assert (logits.shape, logits.dtype) == ((0, 10), jnp.float32)


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_an_empty_batch_runs(name: str) -> None:
    model, shape = test_structure.create(name), test_structure.input_shape(name)
    variables = jax.tree.map(
        lambda leaf: jnp.ones(leaf.shape, leaf.dtype), test_structure.variables_of(name)
    )
    logits: Any = jax.jit(lambda *arguments: model.apply(*arguments, train=False))(
        variables, jnp.zeros((0, *shape))
    )
    assert logits.shape == (0, 10)
