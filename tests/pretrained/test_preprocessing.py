"""Preprocessing gives the same bits as timm and torchvision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_jax import errors
from cnn_jax.data import imagenet
from cnn_jax.pretrained import Preprocessing, preprocessing
from tests.golden import fill

# Results of timm's transforms_imagenet_eval for the images of `random_image`.
GOLDEN = json.loads((Path(__file__).parent / "data" / "preprocessing.json").read_text())


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


@pytest.mark.parametrize(
    ("name", "sizes", "mean", "interpolation"),
    [
        ("resnet50", (224, 256), imagenet.MEAN, "bilinear"),
        ("googlenet_bn", (224, 256), (0.5, 0.5, 0.5), "bilinear"),
        ("inception_v3", (299, 342), (0.5, 0.5, 0.5), "bilinear"),
        ("tf_efficientnet_lite0", (224, 256), (0.5, 0.5, 0.5), "bicubic"),
    ],
)
def test_default_preprocessing_of_a_network(
    name: str, sizes: tuple[int, int], mean: tuple[float, ...], interpolation: str
) -> None:
    found = preprocessing.for_network(name, 1000)
    assert (found.image_size, found.resize_size) == sizes
    assert (found.mean, found.interpolation) == (mean, interpolation)


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
        ({"input_size": [3, 224, 200]}, r"input_size must be \[3, N, N\]"),
        ({"input_size": [1, 224, 224]}, r"input_size must be \[3, N, N\]"),
        ({"input_size": 224}, "has an invalid value"),
        ({"crop_mode": "border"}, "unknown crop_mode 'border'.*center, squash"),
        ({"interpolation": "lanczos"}, "unknown interpolation 'lanczos'.*bicubic, bilinear"),
        ({"crop_pct": 1.2}, "image_size must be from 1 to resize_size, 186, got 224"),
        ({"crop_pct": "0.9"}, "has an invalid value"),
        ({"mean": [0.5]}, "mean and std must have three values"),
        ({"std": [0.5, 0.5, 0]}, "and std must be positive"),
        ({"label_names": 3}, "has an invalid value"),
        ([], "has an invalid value"),
    ],
)
def test_an_unsupported_config_is_an_error(config: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        preprocessing.from_timm({"pretrained_cfg": config}, 1000)
