"""Preprocessing gives the same bits as timm and torchvision."""

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax import errors, pretrained
from cnn_jax.data import imagenet
from cnn_jax.pretrained import Preprocessing, convert, preprocessing, usual
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.network import Network
from tests.golden import fill
from tests.pretrained import checkpoints

# Results of timm's transforms_imagenet_eval for the images of `random_image`.
GOLDEN = json.loads((Path(__file__).parent / "data" / "preprocessing.json").read_text())

# `make_adapted.py` wrote the values in timm's default_cfgs and in torchvision's first weights.
PUBLISHED = json.loads((Path(__file__).parent / "data" / "published.json").read_text())


def random_image(height: int, width: int) -> np.ndarray:
    return ((fill.uniform("picture", (height, width, 3)) + 1) * 128).astype(np.uint8)


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_pixels_equal_timms(case: dict[str, Any]) -> None:
    prepare = preprocessing.from_timm({"pretrained_cfg": case["config"]}, 1000)
    image = random_image(*case["picture"])
    assert prepare.fit(image).flatten().tolist() == case["pixels"]
    expected = [float.fromhex(value) for value in case["first"]]
    assert prepare(image).dtype == np.float32
    assert prepare(image).flatten()[: len(expected)].tolist() == expected


@pytest.mark.parametrize("size", [(300, 401), (401, 300), (256, 256), (100, 80), (224, 1000)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_equal_torchvisions_resize_and_crop(
    size: tuple[int, int], interpolation: str
) -> None:
    height, width = size
    image = Image.fromarray(random_image(height, width))
    scale = 256 / min(size)
    resized = image.resize(
        (int(width * scale + 1e-9), int(height * scale + 1e-9)),
        Image.Resampling[interpolation.upper()],
    )
    left, top = (round((side - 224) / 2) for side in resized.size)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    prepare = Preprocessing(224, 256, ("a",), interpolation=interpolation)
    np.testing.assert_array_equal(prepare.fit(np.asarray(image)), expected)


def test_imagenet_class_names_are_unique() -> None:
    names = preprocessing.class_names(1000)
    assert len(set(names)) == 1000
    assert [names[i] for i in (0, 309, 442, 698, 985, 999)] == [
        "tench", "bee", "bell cote", "palace", "daisy", "toilet tissue",
    ]  # fmt: skip


def test_class_names_are_numbers_if_there_are_not_1000() -> None:
    assert preprocessing.class_names(3) == ("0", "1", "2")


def fields(found: Preprocessing) -> dict[str, Any]:
    return {
        "input_size": [len(found.mean), found.image_size, found.image_width or found.image_size],
        "resize_size": found.resize_size,
        "squash": found.squash,
        "mean": list(found.mean),
        "std": list(found.std),
        "interpolation": found.interpolation,
    }


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_usual_preprocessing_equals_the_published_values(library: str) -> None:
    """Timm's for networks of timm; torchvision's for others, and for its own names."""
    for name, published in PUBLISHED[library].items():
        expected = {key: value for key, value in published.items() if key != "tag"}
        found = preprocessing.for_network(name, 1000, torchvision=library == "torchvision")
        if library == "torchvision" and name in ("googlenet_bn", "inception_v3"):
            expected |= {"mean": [0.5] * 3, "std": [0.5] * 3}  # It converts in the network.
        assert fields(found) == expected, name


def test_every_published_network_has_a_usual_preprocessing() -> None:
    """Timm has no weights of the narrow MobileNets v1; they are as mobilenetv1_100."""
    known = PUBLISHED["timm"].keys() | PUBLISHED["torchvision"].keys()
    assert set(tables.published()) - known == {f"mobilenetv1_0{width}" for width in (25, 50, 75)}
    for name in tables.published():
        patterns = [key for key in usual._TIMM if re.fullmatch(key, name)]
        assert len(patterns) == (name in PUBLISHED["timm"] or name.startswith("mobilenetv1_"))


@pytest.mark.parametrize(
    ("table", "mean", "resize_size"), [(0, (0.5,) * 3, 248), (1, imagenet.MEAN, 256)]
)
def test_the_names_in_a_file_tell_whose_preprocessing_it_has(
    tmp_path: Path, table: int, mean: tuple[float, ...], resize_size: int
) -> None:
    """The first names are timm's, the second torchvision's."""
    name = "vit_base_patch16_224"
    options: Any = {"width": 8, "depth": 1, "heads": 1}
    variables = checkpoints.random_variables(Network.of(name, None, options).shapes(2))
    state = convert.to_state_dict(tables.for_network(name)[table], variables)
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoints.safetensors(state))
    found = pretrained.load(path, name=name, **options).preprocessing
    assert (found.mean, found.resize_size) == (mean, resize_size)


def test_the_share_of_the_crop_stays_for_images_of_another_size() -> None:
    """Timm rounds down: 384 / 0.9 is 426.67, 96 / 0.9 is 106.67."""
    config = {"pretrained_cfg": {"crop_pct": 0.9, "input_size": [3, 224, 224]}}
    assert preprocessing.from_timm(config, 2, (384, 384, 3)).resize_size == 426
    assert preprocessing.for_network("vit_tiny_patch16_224", 2, (96, 128, 3)).resize_size == 106
    assert preprocessing.for_network("resnet18", 2, (64, 96, 3)).resize_size == 73  # 64 * 256 / 224
    squashed = preprocessing.for_network("efficientnet_b5", 2, (64, 96, 3))
    assert (squashed.resize_size, squashed.squash) == (96, True)
    more = preprocessing.for_network("resnet18", 2).adapted((64, 64, 4))
    assert more.mean == (*imagenet.MEAN, imagenet.MEAN[0])


def test_an_empty_config_gives_timms_defaults() -> None:
    found = preprocessing.from_timm({"architecture": "resnet50"}, 1000)
    assert found == Preprocessing(
        224, 256, preprocessing.class_names(1000), interpolation="bicubic"
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"label_names": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"label_names": {"0": "a", "2": "c"}}, ("a", "1", "c")),
        ({"label_names": ["crane", "a", "crane"]}, ("crane (0)", "a", "crane (2)")),
        ({"pretrained_cfg": {"label_names": ["n1", "n2"]}}, ("n1", "n2", "2")),
        ({"label_names": ["n1"], "label_descriptions": {"n1": "a tench"}}, ("a tench", "1", "2")),
        ({"architecture": "a", "labels": ["x", "y", "z"]}, ("x", "y", "z")),
        ({}, ("0", "1", "2")),
    ],
)
def test_class_names_come_from_the_config(
    config: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert preprocessing.from_timm(config, 3).class_names == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"input_size": [3, 224, 200]}, r"input_size must be \[C, N, N\]"),
        ({"input_size": [0, 224, 224]}, r"input_size must be \[C, N, N\]"),
        ({"input_size": 224}, "has an invalid value"),
        ({"crop_mode": "border"}, "unknown crop_mode 'border'.*center, squash"),
        ({"interpolation": "lanczos"}, "unknown interpolation 'lanczos'.*bicubic, bilinear"),
        ({"crop_pct": 1.2}, "image_size must be from 1 to resize_size, 186, got 224"),
        ({"crop_pct": "0.9"}, "has an invalid value"),
        ({"mean": [0.5]}, "mean and std must have one value per channel, or three; got"),
        ({"mean": [0.5] * 2, "std": [0.5] * 2}, "mean and std must have one value per channel"),
        ({"std": [0.5, 0.5, 0]}, "and std must be positive"),
        ({"label_names": 3}, "has an invalid value"),
        ([], "has an invalid value"),
    ],
)
def test_an_unsupported_config_is_an_error(config: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        preprocessing.from_timm({"pretrained_cfg": config}, 1000)


def resnets() -> Preprocessing:
    return preprocessing.for_network("resnet18", 2)


def test_images_of_all_kinds_give_the_same_input(tmp_path: Path) -> None:
    image, path = random_image(90, 70), tmp_path / "image.png"
    Image.fromarray(image).save(path)
    opaque = Image.fromarray(image).convert("RGBA")
    expected = resnets()(image)
    kinds = (Image.fromarray(image), opaque, path, str(path), path.read_bytes(), jnp.asarray(image))
    for given in kinds:
        np.testing.assert_array_equal(resnets()(given), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_floats_from_0_to_1_give_nearly_the_input_of_their_pixels(dtype: str) -> None:
    image = random_image(300, 260)
    found = resnets()((image / 255).astype(dtype))
    assert found.dtype == np.float32
    tolerance = 1.5 / 255 / min(imagenet.STD)  # Pillow rounds twice, to whole pixel values.
    np.testing.assert_allclose(found, resnets()(image), rtol=0, atol=tolerance)


def test_grey_images_are_repeated_in_three_channels() -> None:
    grey = random_image(80, 90)[..., 0]
    expected = resnets()(np.stack([grey] * 3, axis=-1))
    for given in (grey, grey[..., np.newaxis], Image.fromarray(grey)):
        np.testing.assert_array_equal(resnets()(given), expected)


def test_colours_are_converted_for_a_network_of_grey_images() -> None:
    prepare, image = Preprocessing(28, 28, ("a",), (0.5,), (0.5,)), random_image(28, 28)
    luma = np.asarray(Image.fromarray(image).convert("L"))[..., np.newaxis]
    np.testing.assert_array_equal(prepare.fit(image), luma)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 6, 2), np.uint8), r"\[5, 6, 2\]"),
        (np.zeros((2, 5, 6, 3), np.uint8), r"got \[2, 5, 6, 3\]"),
        (np.zeros((5, 6, 3), np.int64), r"got shape \[5, 6, 3\] and dtype int64"),
        (np.full((5, 6, 3), 255.0), "the value 255; floating-point pixels must be"),
        (None, "must have dtype uint8"),
        ("nowhere.png", "nowhere.png: cannot be read"),
    ],
)
def test_another_kind_of_image_is_an_error(image: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        resnets()(image)


def test_undo_returns_the_pixels_of_inputs() -> None:
    image = random_image(300, 260)
    inputs = resnets()(image)
    np.testing.assert_array_equal(resnets().undo(inputs), resnets().fit(image), strict=True)
    batch = resnets().undo(jnp.stack([inputs, inputs + 100, inputs - 100]))
    np.testing.assert_array_equal(batch[0], resnets().fit(image))
    assert batch.dtype == np.uint8
    assert batch[1].min() == 255
    assert batch[2].max() == 0


@pytest.mark.parametrize("shape", [(224, 224), (224, 224, 1), (3, 224, 224)])
def test_undo_needs_the_channels_of_inputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(errors.UserError, match=r"inputs must have the shape \[..., H, W, 3\]"):
        resnets().undo(np.zeros(shape))


def test_an_input_can_be_wider_than_high() -> None:
    prepare = preprocessing.for_network("resnet18", 2, (64, 96, 3))
    assert prepare.input_shape == (64, 96, 3)
    assert prepare(random_image(300, 260)).shape == (64, 96, 3)
    with pytest.raises(errors.UserError, match="image_size must be from 1 to resize_size, 64"):
        Preprocessing(64, 64, (), squash=True, image_width=96)
