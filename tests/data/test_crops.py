"""Crops of training and evaluation; `tests/golden/make_crops.py` made the reference."""

import dataclasses
import hashlib
import json
import math
import pickle
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import datasets

from cnn_jax import errors
from cnn_jax.data import crops, images
from cnn_jax.plan import Data
from cnn_jax.pretrained import Preprocessing
from tests.pictures import stored

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/crops/torchvision.json").read_text())
PHOTOGRAPH: np.ndarray = datasets.load_sample_image("china.jpg")
BASE = Data(
    image_size=24, channels=3, resize="bilinear", train_crop="random_resized", eval_crop="centre"
)
TRAIN_CROPS = ("pad", "random_resized", "random", "centre")
SIZES = st.tuples(st.integers(1, 700), st.integers(1, 700))


class Replay(np.random.Generator):
    """Generator that returns given numbers, and checks that they are in the wanted ranges."""

    def __init__(self, uniforms: list[float], integers: list[int]) -> None:
        super().__init__(np.random.PCG64())
        self.uniforms, self.ints = list(uniforms), list(integers)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        value = self.uniforms.pop(0)
        assert low - 1e-6 <= value <= high + 1e-6
        return value

    def integers(self, low: Any, *rest: Any, **options: Any) -> Any:
        value = self.ints.pop(0)
        assert 0 <= value < low
        return value


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sha256(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return rng().integers(0, 256, (height, width, channels), np.uint8)


def photograph(channels: int) -> np.ndarray:
    return images.convert(PHOTOGRAPH, channels)


def test_the_photograph_is_the_one_of_the_reference() -> None:
    assert sha256(PHOTOGRAPH) == GOLDEN["photograph"]


@pytest.mark.parametrize("case", GOLDEN["random_resized"])
def test_regions_are_torchvisions_for_the_same_draws(case: dict[str, Any]) -> None:
    replay = Replay(case["uniforms"], case["integers"])
    height, width = case["size"]
    box = crops.random_resized_box(height, width, case["scale"], case["ratio"], replay)
    assert list(box) == case["box"]
    assert not replay.uniforms
    assert not replay.ints


@pytest.mark.parametrize("case", GOLDEN["resized_crop"])
def test_scaled_regions_have_torchvisions_pixels(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = crops.Box(*case["box"])
    monkeypatch.setattr(crops, "random_resized_box", lambda *_: box)
    crop = crops.RandomResized(tuple(case["size"]), (0.08, 1), (0.75, 1.3), case["interpolation"])
    made = crop(photograph(case["channels"]), rng())
    assert made.shape == (*case["size"], case["channels"])
    assert sha256(made) == case["pixels"]


@pytest.mark.parametrize("case", GOLDEN["shorter"])
def test_crops_of_scaled_images_have_torchvisions_pixels(case: dict[str, Any]) -> None:
    image = photograph(case["channels"])
    if case["turned"]:
        image = image.swapaxes(0, 1)
    size, side, method = tuple(case["size"]), case["shorter_side"], case["interpolation"]
    scaled = crops.covering_size(image.shape[0], image.shape[1], size, side)
    assert list(scaled) == case["resized"]
    assert sha256(crops.centre(image, size, side, method)) == case["centre"]
    made = crops.Random(size, side, method)(image, Replay([], case["corner"]))
    assert sha256(made) == case["random"]


@hypothesis.given(
    SIZES,
    st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(sorted),
    st.integers(0, 2**32),
)
def test_a_region_is_inside_the_image(
    size: tuple[int, int], scale: list[float], ratio: list[float], seed: int
) -> None:
    box = crops.random_resized_box(*size, tuple(scale), tuple(ratio), rng(seed))
    assert_inside(box, size)


@hypothesis.given(SIZES, st.tuples(st.integers(1, 80), st.integers(1, 80)), st.integers(0, 2**32))
def test_the_region_of_a_random_crop_is_inside_and_has_its_scale(
    image: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    scaled = crops.covering_size(*image, size, 90)
    assert min(scaled) >= 90
    assert scaled[0] >= size[0]
    assert scaled[1] >= size[1]
    box = crops.Random(size, 90, "bilinear").box(*image, rng(seed))
    assert_inside(box, image)
    for found, wanted, whole, after in zip(box[2:], size, image, scaled, strict=True):
        assert abs(found - wanted * whole / after) <= 1


def assert_inside(box: crops.Box, size: tuple[int, int]) -> None:
    assert min(box.top, box.left) >= 0
    assert min(box.height, box.width) >= 1
    assert box.top + box.height <= size[0]
    assert box.left + box.width <= size[1]
    assert all(type(value) is int for value in box)


def test_areas_and_ratios_are_spread_evenly() -> None:
    generator = rng()
    boxes = [
        crops.random_resized_box(3000, 3000, (0.1, 0.5), (0.5, 2), generator) for _ in range(4000)
    ]
    shares = np.array([box.height * box.width / 3000**2 for box in boxes])
    ratios = np.log([box.width / box.height for box in boxes]) / math.log(2)
    for values, low, high in ((shares, 0.1, 0.5), (ratios, -1, 1)):
        found = np.histogram(values, np.linspace(low, high, 5))[0]
        assert found.sum() >= 3990  # Rounding moves a few over the bounds.
        assert abs(found - 1000).max() < 120  # about four standard deviations
    tops = np.array([box.top / (3000 - box.height) for box in boxes])
    lefts = np.array([box.left / (3000 - box.width) for box in boxes])
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.06
    for values in (tops, lefts):
        assert abs(np.histogram(values, np.linspace(0, 1, 5))[0] - 1000).max() < 120


def test_every_position_of_a_random_crop_occurs() -> None:
    generator = rng()
    found = {crops.random_box(4, 3, (2, 2), generator) for _ in range(300)}
    assert found == {crops.Box(top, left, 2, 2) for top in range(3) for left in range(2)}


def data(**keys: Any) -> Data:
    return dataclasses.replace(BASE, **keys)


def train(keys: Data, image: bytes | np.ndarray, seed: int = 0) -> np.ndarray:
    return crops.train_crop(keys)(image, keys.channels, "image 3", rng(seed))


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 50), (50, 1), (23, 24), (30, 41), (200, 2), (2, 999)]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [0, 24, 61])
def test_every_crop_has_the_shape_of_the_input(
    shape: tuple[int, int], channels: int, width: int
) -> None:
    keys = data(channels=channels, image_width=width)
    for stored_channels in (1, 3):
        image = noise(*shape, stored_channels)
        made = [train(data_of(keys, train_crop=crop), image) for crop in TRAIN_CROPS]
        made += [
            crops.eval_crop(data_of(keys, eval_crop=crop), None)(image)
            for crop in ("fit", "centre")
        ]
        for found in made:
            assert found.shape == keys.input_shape
            assert found.dtype == np.uint8


def data_of(keys: Data, **changes: Any) -> Data:
    return dataclasses.replace(keys, **changes)


@pytest.mark.parametrize("crop", TRAIN_CROPS)
@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_a_crop_is_a_function_of_image_and_generator(crop: str, decoder: str) -> None:
    keys = data(train_crop=crop, decoder=decoder)
    image = PHOTOGRAPH[:90, :120]
    first = train(keys, image)
    np.testing.assert_array_equal(train(keys, image), first)
    np.testing.assert_array_equal(train(keys, stored(image)), first)
    copied = pickle.loads(pickle.dumps(crops.train_crop(keys)))
    np.testing.assert_array_equal(copied(image, 3, "image 3", rng()), first)
    random = crop in ("random", "random_resized")
    assert (train(keys, image, seed=1) == first).all() != random


def test_the_training_crop_pad_is_the_whole_image() -> None:
    image = noise(20, 16)
    for resize in images.RESIZE:
        keys = data(train_crop="pad", eval_crop="fit", resize=resize)
        np.testing.assert_array_equal(train(keys, image), images.fit(image, (24, 24), resize))


def test_the_centre_is_the_same_in_training_evaluation_and_published_networks() -> None:
    for shape in ((40, 61), (61, 40), (24, 24), (300, 5), (2, 401)):
        image = noise(*shape)
        for side, resize in ((0, "bilinear"), (24, "bicubic"), (31, "bicubic")):
            keys = data(train_crop="centre", shorter_side=side, resize=resize)
            expected = Preprocessing(24, side or 27, ("a",), interpolation=resize).fit(image)
            native = crops.eval_crop(keys, (8, 8))
            np.testing.assert_array_equal(crops.eval_crop(keys, None)(image), expected)
            np.testing.assert_array_equal(native(image), expected)
            np.testing.assert_array_equal(train(keys, image), expected)


@pytest.mark.parametrize(("image_size", "side"), [(224, 256), (227, 259), (24, 27), (299, 342)])
def test_the_shorter_side_is_by_default_an_eighth_longer(image_size: int, side: int) -> None:
    made = crops.eval_crop(data(image_size=image_size), None)
    assert made == crops.eval_crop(data(image_size=image_size, shorter_side=side), None)


def test_evaluation_fits_images_of_other_sizes_by_the_native_size() -> None:
    image = noise(40, 61)
    keys = data(train_crop="pad", eval_crop="fit", resize="pad")
    expected = images.to_input(image, (20, 18), (24, 24, 3), "pad")
    np.testing.assert_array_equal(crops.eval_crop(keys, (20, 18))(image), expected)


def test_an_image_is_scaled_further_where_a_wide_crop_needs_it() -> None:
    image = noise(50, 50)
    keys = data(image_size=20, image_width=80)
    scaled = images.stretch(image, (80, 80), "bilinear")
    np.testing.assert_array_equal(crops.eval_crop(keys, None)(image), scaled[30:50])
    seen = train(data_of(keys, train_crop="random"), image)
    assert any((seen == scaled[top : top + 20]).all() for top in range(61))


def test_a_line_of_pixels_takes_little_memory() -> None:
    image = noise(1, 60_000)
    scaled = crops.scale_to_cover(image, (224, 224), 256, "bilinear")
    assert scaled.shape == (256, 64 * 256, 3)
    middle = images.stretch(image[:, 29_968:30_032], scaled.shape[:2], "bilinear")
    np.testing.assert_array_equal(scaled, middle)


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_bytes_that_are_no_image_are_an_error_with_the_place(decoder: str) -> None:
    with pytest.raises(errors.UnreadableImageError, match=r"^image 3: not a readable image"):
        train(data(decoder=decoder), b"no image")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"train_crop": "pad", "eval_crop": "fit", "resize": "pad"},
        {"train_crop": "random", "shorter_side": 24, "crop_scale": (1.0, 1.0)},
        {"train_crop": "centre", "image_width": 80, "shorter_side": 30},
        {"decoder": "opencv", "resize": "bicubic", "crop_ratio": (2.0, 2.0)},
    ],
)
def test_sensible_keys_pass(keys: dict[str, Any]) -> None:
    crops.check(data(**keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"resize": "pad"}, "data.train_crop 'random_resized' scales images.*bilinear or bicubic"),
        ({"resize": "pad", "train_crop": "pad"}, "data.eval_crop 'centre' scales images"),
        ({"crop_scale": (0.0, 1.0)}, r"data.crop_scale must be .* <= 1, got \(0.0, 1.0\)"),
        ({"crop_scale": (0.5, 0.4)}, "0 < smallest <= largest"),
        ({"crop_scale": (0.5, 1.1)}, "data.crop_scale"),
        ({"crop_scale": (0.5,)}, r"two numbers .*, got \(0.5,\)"),
        ({"crop_scale": (math.nan, 1.0)}, "data.crop_scale"),
        ({"crop_ratio": (1.5, 1.0)}, "data.crop_ratio must be two numbers with 0 < smallest"),
        ({"crop_ratio": (1.0, math.inf)}, "data.crop_ratio"),
        ({"crop_ratio": (0.5, 1.0, 2.0)}, "data.crop_ratio"),
        ({"shorter_side": 23}, "data.shorter_side must be at least 24 .* 0 for 27; got 23"),
        ({"decoder": "opencv", "train_crop": "pad"}, "random and random_resized, .* is 'pad'"),
        ({"decoder": "opencv", "train_crop": "centre"}, "set data.decoder to 'pillow'"),
    ],
)
def test_keys_that_make_no_sense_are_an_error(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        crops.check(data(**keys))
