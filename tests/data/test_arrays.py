"""Tests of arrays in Python from end to end: dtypes, channels, automatic sizes, both storages."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax import data, errors, plan
from cnn_jax.contracts import Source
from cnn_jax.data import automatic, resident
from cnn_jax.data.moments import Moments
from cnn_jax.data.selection import Selected
from cnn_jax.data.sources import fake, folders
from cnn_jax.data.sources.arrays import from_arrays
from cnn_jax.runtime import sharding
from tests.feeds import WHOLE, bind, evaluated, make_plan, taken
from tests.streams import write_folder

RNG = np.random.default_rng(0)
LABELS = np.arange(16) % 3
# Deep floats, as of a depth camera and of a satellite.
FLOATS = RNG.random((16, 6, 9, 5))
AUTOMATIC: dict[str, Any] = {"image_size": 0, "channels": 0, "resize": "pad"}


@pytest.fixture(scope="module")
def floats() -> Source:
    return from_arrays({"train": (FLOATS, LABELS), "other": (FLOATS[:5] / 2, LABELS[:5])})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (FLOATS, FLOATS.astype(np.float32)),
        (FLOATS.astype(np.float16), FLOATS.astype(np.float16).astype(np.float32)),
        (jnp.asarray(FLOATS, jnp.bfloat16), np.asarray(jnp.asarray(FLOATS, jnp.bfloat16), "f4")),
        (FLOATS[..., 0], FLOATS[..., :1].astype(np.float32)),
        (FLOATS > 0.5, (FLOATS > 0.5) * np.uint8(255)),
    ],
)
def test_images_become_uint8_or_float32_with_an_axis_of_channels(
    given: Any, expected: np.ndarray
) -> None:
    stored = from_arrays({"any name": (given, jnp.asarray(LABELS))}).splits["any name"]
    assert np.asarray(stored.images).dtype == expected.dtype
    np.testing.assert_array_equal(stored.images, expected)
    np.testing.assert_array_equal(stored.labels(), LABELS)


def test_a_list_may_mix_sizes_and_grey_with_colour() -> None:
    shapes = [(4, 5), (6, 3, 3), (2, 2, 1)]
    ragged = np.empty(3, object)
    ragged[:] = given = [np.zeros(shape, np.uint8) for shape in shapes]
    for images in (given, tuple(given), ragged):
        stored = from_arrays({"train": (images, [0, 1, 1])}).splits["train"]
        assert [image.shape for image in stored.images] == [(4, 5, 1), (6, 3, 3), (2, 2, 1)]


@pytest.mark.parametrize(
    ("splits", "names", "message"),
    [
        ({}, None, "no split is given; give at least"),
        ({"train": FLOATS}, None, r"split 'train' must be a pair \(images, labels\), got ndarray"),
        ({"train": (FLOATS,)}, None, r"must be a pair \(images, labels\), got tuple of 1"),
        ({"a[0]": (FLOATS, LABELS)}, None, r"must be a text without brackets.* got 'a\[0\]'"),
        ({1: (FLOATS, LABELS)}, None, "must be a text without brackets, such as 'train', got 1"),
        ({"train": (FLOATS, LABELS)}, [0, 1, 2], r"class_names must be texts.* got 0"),
    ],
)
def test_wrong_splits_and_names_of_classes(splits: Any, names: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        from_arrays(splits, names)


def test_moments_of_floats_are_those_of_numpy() -> None:
    images = FLOATS.astype(np.float32)
    sums, flat = Moments(5, np.float32), Moments(1, np.float32)
    for image in images:
        sums.add(image)
        flat.add(np.full((2, 2, 1), 0.1, np.float32))
    mean, std = sums.mean_and_std()
    np.testing.assert_allclose(mean, images.mean((0, 1, 2), np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 1, 2), np.float64), rtol=1e-9)
    assert flat.mean_and_std()[1] == (1 / 65535,)


def test_moments_of_many_channels_are_those_of_each() -> None:
    images = RNG.integers(0, 256, (4, 6, 9, 5), np.uint8)
    sums, second = Moments(5), Moments(1)
    for image in images:
        sums.add(image)
        second.add(image[..., 1:2])
    (mean, std), (one_mean, one_std) = sums.mean_and_std(), second.mean_and_std()
    assert (mean[1], std[1]) == (one_mean[0], one_std[0])


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_float_images_are_normalised_by_their_own_statistics(storage: str, floats: Source) -> None:
    keys = {**AUTOMATIC, "storage": storage, "test_split": "other", "train_split": "train"}
    feed = bind(floats, validation_split="", **keys)
    description = feed.description
    assert (description.peak, description.input_shape) == (1.0, (6, 9, 5))
    np.testing.assert_allclose(description.mean, FLOATS.mean((0, 1, 2)), atol=1e-6)
    batch = evaluated(feed, "test", 5)
    mean, std = np.array(description.mean), np.array(description.std)
    np.testing.assert_allclose(batch["image"][:5], (FLOATS[:5] / 2 - mean) / std, atol=1e-5)
    inputs = feed.train_inputs([range(1)])
    _, first = next(iter(inputs))
    image = first["images" if storage == "resident" else "image"]
    assert image.dtype == np.float32
    trained = next(data.train_batches(feed, 0))
    assert trained["image"].shape == (8, 6, 9, 5)
    assert trained["image"].dtype == np.float32
    feed.close()


def test_random_crops_of_float_images(floats: Source) -> None:
    keys: dict[str, Any] = {
        "train_crop": "random_resized",
        "decoder": "opencv",
        "channels": 5,
        "test_split": "",
    }
    feed = bind(floats, **{**keys, "image_size": 4, "crop_scale": (1.0, 1.0)})
    images = taken(feed, 0, 1)["image"]
    assert images.shape == (1, 8, 4, 4, 5)
    assert images.dtype == np.float32
    assert 0.3 < images.mean() < 0.7


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Examples whose second half has another dtype."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        dtype = np.float32 if index >= 8 else np.uint8
        return {"image": np.ones((16, 16, 3), dtype), "label": 0}

    def name(self, index: int) -> str:
        return f"picture {index}"

    def labels(self) -> np.ndarray:
        return np.zeros(16, np.int32)


@dataclasses.dataclass(frozen=True)
class MixedSource:
    class_names: tuple[str, ...] = ("all",)
    splits: Any = dataclasses.field(default_factory=lambda: {"train": Mixed()})


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_another_dtype_than_that_of_the_set_is_an_error(storage: str) -> None:
    with pytest.raises(errors.UserError, match=r"has dtype float32, other images .* have uint8"):
        taken(bind(MixedSource(), storage=storage, **WHOLE), 0, 2)


# Automatic values.


def resolved(source: Source, **changes: Any) -> plan.Data:
    return data.resolve(make_plan(**{**AUTOMATIC, "storage": "auto", **changes}), source).data


def test_sizes_and_channels_are_those_of_the_images(floats: Source) -> None:
    found = resolved(floats, test_split="other")
    assert (found.image_size, found.image_width, found.channels) == (6, 9, 5)
    square = from_arrays({"train": (np.zeros((20, 7, 7), np.uint8), [0] * 20)})
    found = resolved(square)
    assert (found.image_size, found.image_width, found.channels) == (7, 0, 1)
    found = resolved(square, image_size=9, channels=3)
    assert (found.image_size, found.image_width, found.channels) == (9, 0, 3)
    assert data.open_source(make_plan(**AUTOMATIC, source="fake").data).splits["train"][0][
        "image"
    ].shape == (fake.SHAPE)


def test_images_of_different_sizes_need_a_size() -> None:
    images = [np.zeros((8, 8, 1 + 2 * (index > 9)), np.uint8) for index in range(20)]
    source = from_arrays({"train": (images, [0] * 20)})
    assert resolved(source, train_split="train").channels == 3
    assert resolved(source, train_split="train[:10]").channels == 1
    images[19] = np.zeros((8, 9, 1), np.uint8)
    source = from_arrays({"train": (images, [0] * 20)})
    message = "they differ: train, image 0 has 8x8, train, image 19 has 8x9 pixels .*; set data.im"
    with pytest.raises(errors.UserError, match=message):
        resolved(source, train_split="train")
    assert resolved(source, train_split="train", image_size=9).channels == 3
    assert resolved(source, train_split="train[:19]").image_size == 8


def test_the_first_files_stand_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_folder(tmp_path / "train", [0, 1] * 6)
    source = folders.source(tmp_path)
    with pytest.raises(errors.UserError, match="takes the size of the images, but they differ"):
        resolved(source, **WHOLE)
    for file in files:
        Image.new("L", (9, 6)).save(file)
    files[3].write_bytes(b"damaged")
    found = resolved(source, **WHOLE)
    assert (found.image_size, found.image_width, found.channels) == (6, 9, 1)
    Image.new("RGB", (9, 6)).save(files[5])
    assert resolved(source, **WHOLE).channels == 3
    monkeypatch.setattr(automatic, "_TRIED", 0)
    with pytest.raises(errors.UserError, match="no training image can be read"):
        resolved(source, **WHOLE)


def test_automatic_values_are_checked_like_given_ones(floats: Source) -> None:
    for changes, message in (
        ({"crop_padding": 6}, r"data.crop_padding must be in \[0, 6\)"),
        ({"mean": (0.5,), "std": (0.5,)}, "one value for each of the 5 channels"),
        ({"train_crop": "random", "resize": "bilinear", "shorter_side": 5}, "at least 6 pixels"),
    ):
        data.check(make_plan(**{**AUTOMATIC, **changes}, source="fake").data)
        with pytest.raises(errors.UserError, match=message):
            resolved(floats, test_split="other", **changes)
    with pytest.raises(errors.UserError, match=r"data\.image_width is 9, but data.image_size is 0"):
        data.check(make_plan(**{**AUTOMATIC, "image_width": 9}, source="fake").data)


def test_floats_count_four_times_as_many_bytes(
    floats: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 14 + 2 + 5 images of the splits.
    monkeypatch.setattr(resident, "MAX_RESIDENT_BYTES", 21 * 6 * 9 * 5 * 4)
    keys = {"train_split": "train[:90%]", "validation_split": "train[90%:]", "test_split": "other"}
    assert resolved(floats, **keys).storage == "resident"
    monkeypatch.setattr(resident, "MAX_RESIDENT_BYTES", 21 * 6 * 9 * 5 * 4 - 1)
    assert resolved(floats, **keys).storage == "streamed"
    with pytest.raises(errors.UserError, match=r"the images take .* GiB"):
        bind(floats, **{**AUTOMATIC, **keys, "storage": "resident"})


# Evaluation of other sets.


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_another_set_is_evaluated_with_the_statistics_of_the_run(storage: str) -> None:
    images = RNG.integers(0, 256, (30, 16, 16, 3), np.uint8)
    run = from_arrays({"train": (images, np.arange(30) % 3)}, ("a", "b", "c"))
    # An augmentation of the run need not be importable.
    plan_ = make_plan(storage=storage, crop_padding=2)
    description = bind(run, storage=storage).description
    plan_ = dataclasses.replace(
        plan_, data=dataclasses.replace(plan_.data, augment=(("missing:one", {}),))
    )
    other = from_arrays({"val": (images / 255, np.arange(30) % 3)}, ("a", "b", "c"))
    feed = data.bind_evaluation(
        other, {"half": "val[:50%]", "val": "val"}, plan_, sharding.make_layout(), description
    )
    assert (set(feed.splits), feed.size("half"), feed.size("val")) == ({"half", "val"}, 15, 30)
    assert (feed.description.mean, feed.description.peak) == (description.mean, 1.0)
    batch = evaluated(feed, "half", 15)
    mean, std = np.array(description.mean), np.array(description.std)
    np.testing.assert_allclose(
        batch["image"][:15], (images[:15] / 255 - mean) / std, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(batch["label"][:15], np.arange(15) % 3)
    feed.close()
    with pytest.raises(errors.UserError, match="unknown split 'test'; allowed: val"):
        data.bind_evaluation(other, {"test": "test"}, plan_, sharding.make_layout(), description)


# Compiled functions.


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_traced_functions_refer_to_no_array_of_the_set(storage: str, floats: Source) -> None:
    feed = bind(floats, **{**AUTOMATIC, "storage": storage, "test_split": "other"})
    seen: list[Any] = []
    waiting: list[Any] = [feed.train_batch, feed.eval_batch]
    while waiting:
        one = waiting.pop()
        seen.append(one)
        assert not isinstance(one, (jax.Array, np.ndarray, Selected, type(feed)))
        if hasattr(one, "__self__"):
            waiting.append(one.__self__)
        elif dataclasses.is_dataclass(one):
            waiting.extend(getattr(one, field.name) for field in dataclasses.fields(one))
    assert feed.description in seen


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["crane", "crane", "b"], "'crane' twice, for the labels 0 and 1"),
        ("abc", "class_names must be texts"),
        (["a", 1, "b"], "class_names must be texts"),
    ],
)
def test_class_names_are_texts_and_differ(names: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        from_arrays({"train": (FLOATS, LABELS)}, names)


@pytest.mark.parametrize("shape", [(16, 3, 8, 8), (16, 1, 12, 12)])
def test_small_images_with_channels_first_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(errors.UserError, match=r"channels come last: numpy.moveaxis"):
        from_arrays({"train": (np.zeros(shape, np.uint8), LABELS)})
