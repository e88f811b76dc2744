"""Tests of window attention against its definition, and of options of the transformers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.models import attention, vit

HEADS, CHANNELS, WINDOW = 2, 6, 4
# Small enough to run in seconds. Two blocks are needed for a drop rate above 0 in the last one.
SMALL: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"width": 8, "depth": 2, "heads": 2},
    "swin_tiny_patch4_window7_224": {"width": 8, "stage_sizes": (2,), "heads": (2,)},
    "convnext_tiny": {"widths": (8,), "stage_sizes": (2,)},
}


def small(name: str, size: int = 32, **overrides: Any) -> tuple[Any, Any, Any]:
    """Returns a network, the shapes of its variables, and the shape of a batch of two images."""
    model = models.create(name, num_classes=10, **{**SMALL[name], **overrides})
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    return model, variables, images


def random_variables(shapes: Any) -> Any:
    """Returns standard normal arrays of the given shapes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def plain_window_attention(params: Any, image: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """Returns window attention of one image `[H, W, C]`, computed one query at a time.

    The first full window starts at pixel `shift`. The pixels before it form smaller windows, so no
    cyclic shift is needed.
    """
    height, width, channels = image.shape
    pixels = [(row, column) for row in range(height) for column in range(width)]
    windows = [((row - shift[0]) // WINDOW, (col - shift[1]) // WINDOW) for row, col in pixels]
    qkv = image.reshape(-1, channels) @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    query, key, value = qkv.reshape(len(pixels), 3, HEADS, -1).transpose(1, 2, 0, 3)
    side = 2 * WINDOW - 1
    table = params["relative_position_bias_table"].reshape(HEADS, side, side)
    y = np.zeros((len(pixels), HEADS, channels // HEADS))
    for q, (row, column) in enumerate(pixels):
        in_window = [k for k in range(len(pixels)) if windows[k] == windows[q]]
        for head in range(HEADS):
            bias = [
                table[head, row - pixels[k][0] + WINDOW - 1, column - pixels[k][1] + WINDOW - 1]
                for k in in_window
            ]
            logits = key[head, in_window] @ query[head, q] / (channels // HEADS) ** 0.5 + bias
            y[q, head] = softmax(logits) @ value[head, in_window]
    y = y.reshape(image.shape)
    return y @ params["proj"]["kernel"] + params["proj"]["bias"]


@pytest.mark.parametrize(
    ("size", "shifted", "shift"),
    [
        ((8, 12), False, (0, 0)),
        ((8, 12), True, (2, 2)),
        ((3, 4), True, (0, 0)),
        ((4, 8), True, (0, 2)),
        ((2, 8), False, (0, 0)),
    ],
    ids=str,
)
def test_window_attention(size: tuple[int, int], shifted: bool, shift: tuple[int, int]) -> None:
    module = attention.WindowAttention(HEADS, 0.0, False, "float64", window=WINDOW, shifted=shifted)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        images = jnp.asarray(rng.normal(size=(2, *size, CHANNELS)))
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images))
        assert shapes["params"]["relative_position_bias_table"].shape == (HEADS, 49)
        variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
        result = jax.jit(module.apply)(variables, images)
    for image, y in zip(np.asarray(images), np.asarray(result), strict=True):
        expected = plain_window_attention(variables["params"], image, shift)
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)


def test_merge_is_the_inverse_of_partition() -> None:
    image = jnp.arange(2 * 6 * 8 * 3).reshape(2, 6, 8, 3)
    windows = attention.partition(image, (3, 4))
    assert windows.shape == (2, 4, 12, 3)
    np.testing.assert_array_equal(windows[1, 1].reshape(3, 4, 3), image[1, :3, 4:])
    np.testing.assert_array_equal(attention.merge(windows, (3, 4), (6, 8)), image)


@pytest.mark.parametrize(
    ("name", "rate"),
    [(name, rate) for name in SMALL for rate in models.options(name) if rate.endswith("_rate")],
)
def test_dropout_depends_on_the_key_in_training_and_is_off_in_evaluation(
    name: str, rate: str
) -> None:
    overrides: dict[str, Any] = {rate: 0.5}
    model, *shapes = small(name, **overrides)
    variables, images = random_variables(shapes)

    @jax.jit
    def logits(key: jax.Array) -> Any:
        trained = model.apply(variables, images, train=True, rngs={"dropout": key})
        return trained, model.apply(variables, images, train=False, rngs={"dropout": key})

    results = [logits(jax.random.key(seed)) for seed in (0, 0, 1)]
    trained, evaluated = zip(*results, strict=True)
    np.testing.assert_array_equal(trained[0], trained[1])
    np.testing.assert_array_equal(evaluated[0], evaluated[2])
    assert not np.allclose(trained[0], trained[2])
    assert not np.allclose(trained[0], evaluated[0])


def test_position_embeddings_depend_on_image_size_and_endpoints_omit_the_class_token() -> None:
    model, variables, images = small("vit_tiny_patch16_224", size=48, depth=4)
    assert variables["params"]["pos_embed"].shape == (1, 10, 8)
    stages = jax.eval_shape(lambda *args: models.features(model, *args), variables, images)
    assert sorted(stages) == ["stage1", "stage2", "stage3", "stage4", "stem"]
    assert {stage.shape for stage in stages.values()} == {(2, 3, 3, 8)}


def test_an_image_size_that_is_no_multiple_of_the_patch_size_raises() -> None:
    with pytest.raises(ValueError, match="multiples of 16 pixels, got 40x40"):
        small("vit_tiny_patch16_224", size=40)


@pytest.mark.parametrize(
    ("heads", "message"), [(0, "at least 1, got 0"), (3, "must divide the 8 channels, got 3")]
)
def test_heads_that_do_not_divide_the_channels_raise(heads: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("vit_tiny_patch16_224", heads=heads)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("pooling", "max", "mean"),
        ("positions", "sincos", "sincos2d"),
        ("initialization", "torch", "big_vision"),
    ],
)
def test_an_unknown_option_of_a_vit_raises(option: str, value: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.{option} '{value}'.*{allowed}"):
        models.create("vit_tiny_patch16_224", num_classes=10, **{option: value})


def test_fixed_positions_need_a_width_of_four_parts() -> None:
    with pytest.raises(ValueError, match=r"model.width must be a multiple of 4 .* got 6"):
        small("vit_tiny_patch16_224", positions="sincos2d", width=6)


@pytest.mark.parametrize("pooling", vit.POOLINGS)
def test_fixed_positions_have_no_parameters_and_serve_every_image_size(pooling: str) -> None:
    options: dict[str, Any] = {"pooling": pooling, "positions": "sincos2d", "hidden_head": True}
    model, variables, _ = small("vit_tiny_patch16_224", **options)
    names = {"patch_embed_proj", "blocks_0", "blocks_1", "norm", "pre_logits", "head"}
    assert set(variables["params"]) == names | ({"cls_token"} if pooling == "token" else set())
    larger = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    logits = jax.eval_shape(lambda *args: model.apply(*args, train=False), variables, larger)
    assert logits.shape == (2, 10)
    pooled = models.create(
        "vit_tiny_patch16_224", num_classes=0, **SMALL["vit_tiny_patch16_224"], **options
    )
    assert jax.eval_shape(
        lambda *args: pooled.apply(*args, train=False), variables, larger
    ).shape == (2, 8)


@pytest.mark.slow
def test_the_initialization_of_big_vision() -> None:
    """Glorot uniform has the bound sqrt(6 / (fan-in + fan-out)), separately for q, k and v."""
    model, _, images = small(
        "vit_tiny_patch16_224",
        width=64,
        depth=1,
        pooling="mean",
        hidden_head=True,
        initialization="big_vision",
    )
    init = jax.jit(model.init, static_argnames="train")
    params = init(jax.random.key(0), jnp.zeros(images.shape), train=False)["params"]
    block = params["blocks_0"]
    for kernel, fans in (
        (block["attn"]["qkv"]["kernel"], 2 * 64),
        (block["attn"]["proj"]["kernel"], 2 * 64),
        (block["mlp"]["fc1"]["kernel"], 5 * 64),
        (block["mlp"]["fc2"]["kernel"], 5 * 64),
    ):
        bound = (6 / fans) ** 0.5
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(np.std(kernel), bound / 3**0.5, rtol=0.03)
    np.testing.assert_allclose(np.std(params["pre_logits"]["kernel"]), 1 / 8, rtol=0.05)
    np.testing.assert_allclose(np.std(block["mlp"]["fc1"]["bias"]), 1e-6, rtol=0.2)
    assert not np.any(block["attn"]["qkv"]["bias"])
    assert not np.any(params["head"]["kernel"])
