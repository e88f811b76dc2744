"""Tests of sources and augmentations that a config names as 'module:attribute'."""

import dataclasses
import re
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import contracts, data, errors, plan
from cnn_jax.data import augment, pipeline, pixels, sources
from cnn_jax.data.sources.arrays import ArraySource, from_arrays
from cnn_jax.runtime import sharding

MODULE = '''
"""A module of the user's."""

import jax.numpy as jnp
import numpy as np

from cnn_jax import data

IMAGES = np.arange(24 * 4 * 5 * 2, dtype=np.uint8).reshape(24, 4, 5, 2)


def make_source(keys):
    labels = np.arange(24) % 2
    return data.from_arrays({"train": (IMAGES + keys.split_seed, labels)}, ["even", "odd"])


def nothing(keys):
    return None


def invert(description, share=1.0):
    def change(key, batch):
        image = share * (description.peak - batch["image"])
        return {**batch, "image": image.astype(batch["image"].dtype)}

    return change


invert.stage = "bytes"


class Shift:
    """Adds the same random number to each image."""

    def __init__(self, description, scale):
        self.scale = scale

    def __call__(self, key, batch):
        import jax

        return {**batch, "image": batch["image"] + self.scale * jax.random.uniform(key, ())}


def to_bytes(description):
    return lambda key, batch: {**batch, "image": batch["image"].astype(np.uint8)}


to_bytes.stage = "bytes"


def names_missing(description):
    return lambda key, batch: {"image": batch["image"]}


def cropped(description):
    return lambda key, batch: {**batch, "image": batch["image"][:, 1:]}


def doubled(description):
    return lambda key, batch: {**batch, "image": batch["image"].astype(jnp.bfloat16)}


def images(description):
    return lambda key, batch: batch["image"]


def failing(description):
    return lambda key, batch: batch["picture"]


def early(description):
    return lambda key, batch: batch


early.stage = "first"
number = 7
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the user's module into a directory of PYTHONPATH."""
    (tmp_path / "users_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def keys(**changes: Any) -> plan.Data:
    return plan.read({"data": {"source": "users_module:make_source", **changes}}).data


# Sources.


def test_a_source_of_the_users_is_called_with_the_keys_of_the_data_set() -> None:
    data.check(keys(image_size=0, channels=0))
    source = data.open_source(keys(split_seed=3))
    assert source.class_names == ("even", "odd")
    assert source.splits["train"][0]["image"][0, 0].tolist() == [3, 4]
    assert data.open_source(keys(classes="odd")).class_names == ("odd",)
    assert sources.title(keys()) == "users_module:make_source"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:x", "data.source 'no_such_module:x': there is no module"),
        ("users_module:number", "data.source 'users_module:number' is 7, which cannot be called"),
        ("users_module", "unknown data.source 'users_module'"),
    ],
)
def test_a_wrong_reference_is_reported_before_anything_is_read(name: str, message: str) -> None:
    for function in (sources.check, sources.open_source):
        with pytest.raises(errors.UserError, match=re.escape(message)):
            function(keys(source=name))


def test_the_result_of_a_function_must_be_a_source() -> None:
    message = "the result of data.source 'users_module:nothing' must have class_names"
    with pytest.raises(errors.UserError, match=message):
        data.open_source(keys(source="users_module:nothing"))


def test_a_given_source_has_to_be_given_again() -> None:
    given = keys(source=plan.GIVEN)
    sources.check(given)
    assert sources.title(given) == "given source"
    with pytest.raises(errors.UserError, match=r"Pass it again: train\.run\(\.\.\., source=\.\.\."):
        data.open_source(given)


@dataclasses.dataclass
class Examples:
    """Two examples, with one method replaced."""

    size: int = 2
    found: Any = dataclasses.field(
        default_factory=lambda: {"image": np.zeros((2, 2, 1), np.uint8), "label": 0}
    )
    stored: Any = dataclasses.field(default_factory=lambda: np.array([0, 1]))
    called: Any = "one"
    lock: Any = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def name(self, index: int) -> Any:
        return self.called

    def labels(self) -> Any:
        return self.stored


@dataclasses.dataclass
class Source:
    class_names: Any = ("a", "b")
    splits: Any = dataclasses.field(default_factory=lambda: {"train": Examples()})


def with_(**changes: Any) -> Source:
    return Source(splits={"train": Examples(**changes)})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source(class_names="ab"), "my source must have class_names, a tuple of texts"),
        (Source(class_names=()), "got Source with class_names ()"),
        (Source(class_names=(0, 1)), "got Source with class_names (0, 1)"),
        (Source(splits=None), "my source must have splits, a mapping such as {'train': examples}"),
        (Source(splits={}), "got Source with splits {}"),
        (Source(splits={"a[": Examples()}), "must be a text without brackets, such as 'train'"),
        (Source(splits={"train": [1]}), "must have the methods __len__(), __getitem__(index), nam"),
        (with_(stored=[0, 1]), "split 'train': labels() must return a NumPy array of integers, go"),
        (with_(stored=np.zeros(2)), "labels() must return a NumPy array of integers, got float64"),
        (with_(size=3), "labels() must have shape [3], one label for each of len() examples, got"),
        (with_(stored=np.array([0, 2])), "labels must be from 0 to 1, the number of classes minus"),
        (with_(called=3), "name(0) must return a text, got 3"),
        (with_(found=3), "an example must be a dictionary with 'image' and 'label', got int"),
        (with_(found={"image": b""}), "with 'image' and 'label', got ['image']"),
        (
            with_(found={"image": b"", "label": 1}),
            "the label of example 0 must be an integer, 0 as labels() says, got 1",
        ),
        (with_(found={"image": "a.png", "label": 0}), "or a NumPy array, got str"),
        (
            with_(found={"image": np.zeros((2, 2)) - 1, "label": 0}),
            "split 'train', image 0 has the value -1",
        ),
    ],
)
def test_what_is_no_source_is_named_with_what_is_missing(source: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        sources.check_source(source, "my source")


def test_sources_pass_the_check() -> None:
    sources.check_source(Source())
    sources.check_source(with_(found=errors.UnreadableImageError("damaged")))
    sources.check_source(with_(size=0, stored=np.zeros(0, np.int64)))
    sources.check_source(from_arrays({"validation": (np.zeros((1, 2, 2)), [0])}))


def test_examples_that_cannot_be_copied_to_workers() -> None:
    batches = pipeline.batches(Examples(lock=threading.Lock()), 0, workers=1)
    with pytest.raises(errors.UserError, match=r"worker processes: cannot pickle .*workers=0"):
        next(batches)


# Augmentations.


@pytest.fixture
def source() -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 5, 2), np.uint8)
    return from_arrays({"train": (images, np.arange(24) % 2)})


def bound(source: contracts.Source, *augmentations: Any, **changes: Any) -> contracts.Feed:
    """Returns the feed of a plan with augmentations."""
    settings = {"image_size": 0, "channels": 0, "augment": augmentations, **changes}
    settings |= {"train_split": "train", "validation_split": "", "test_split": ""}
    plan_ = plan.read({"data": settings, "train": {"batch_size": 8}})
    data.check(plan_.data)
    return data.bind(source, plan_, sharding.make_layout())


def first(feed: contracts.Feed) -> np.ndarray:
    """Returns the images of the first training batch."""
    batches = data.train_batches(feed, seed=0)
    image = np.asarray(next(batches)["image"])
    feed.close()
    return image


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_augmentations_run_in_their_stage_after_crop_and_flip(
    source: ArraySource, storage: str
) -> None:
    changes = {"storage": storage, "flip": True, "mean": (0.5, 0.5), "std": (0.25, 0.5)}
    changes["workers"] = 0  # The devices augment, so the streamed feed needs no worker processes.
    plain = bound(source, **changes)
    feed = bound(source, ("users_module:Shift", {"scale": 2.0}), "users_module:invert", **changes)
    stored = np.rint((first(plain) * [0.25, 0.5] + 0.5) * 255)
    description = feed.description
    inverted = pixels.normalise(255 - stored, description.mean, description.std)
    difference = first(feed) - inverted
    assert 0.01 < difference.mean() < 2
    np.testing.assert_allclose(difference, difference.mean(), atol=1e-5)


def test_each_augmentation_has_the_stream_of_its_place(source: ArraySource) -> None:
    settings = keys(augment=(("users_module:Shift", {"scale": 1.0}), "users_module:invert"))
    made = augment.make(dataclasses.replace(settings, flip=True), bound(source).description)
    assert [(one.stream, one.stage) for one in made] == [
        (1, "bytes"),
        (100, "normalised"),
        (101, "bytes"),
    ]
    batch = {name: jax.numpy.zeros(2) for name in ("image", "label", "weight")}
    key = jax.random.key(5)
    found = augment.apply(made, "normalised", key, batch)["image"]
    expected = jax.random.uniform(jax.random.fold_in(key, 100), ())
    np.testing.assert_array_equal(found, [expected, expected])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("solarise", "unknown augmentation in data.augment 'solarise'"),
        ("users_module:inverse", "has no attribute 'inverse'; nearest: invert"),
        ("users_module:number", "data.augment 'users_module:number' is 7, which cannot be called"),
        (
            ("users_module:invert", {"part": 1}),
            "with the options {'part': 1}, and does not take them: got an unexpected keyword",
        ),
        ("users_module:Shift", "does not take them: missing a required argument: 'scale'"),
    ],
)
def test_a_wrong_augmentation_is_reported_before_anything_is_read(entry: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        data.check(keys(augment=(entry,)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "'users_module:nothing' returns None for (description, **options); it must re"),
        ("early", "unknown stage of data.augment 'users_module:early' 'first'; allowed: bytes, no"),
        (
            "images",
            "returns an array; it must return a batch, a dictionary with the fields image, lab",
        ),
        ("cropped", "for a batch of 2, 'image' is [2, 3, 5, 2] float32, and it was [2, 4, 5, 2] f"),
        ("doubled", "'image' is [2, 4, 5, 2] bfloat16, and it was [2, 4, 5, 2] float32"),
        ("names_missing", "for a batch of 2, 'label' is missing, and it was [2] int32"),
    ],
)
def test_a_wrong_result_is_reported_when_the_data_is_bound(
    name: str, message: str, source: ArraySource
) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        bound(source, f"users_module:{name}")


def test_an_error_in_an_augmentation_keeps_its_place_and_names_the_key(source: ArraySource) -> None:
    with pytest.raises(KeyError) as info:
        bound(source, "users_module:failing")
    note = "raised by data.augment 'users_module:failing', traced with a batch of 2"
    assert info.value.__notes__[-1] == note


def test_floats_are_augmented_from_0_to_1() -> None:
    floats = from_arrays({"train": (np.full((8, 4, 5, 2), 0.25), np.zeros(8, int))})
    feed = bound(floats, ("users_module:Shift", {"scale": 0.0}), mean=(0.5, 0.0), std=(1.0, 1.0))
    np.testing.assert_allclose(first(feed)[0, 0, 0], [-0.25, 0.25])
    np.testing.assert_allclose(
        first(bound(floats, "users_module:invert", mean=(0.5, 0.0), std=(1.0, 1.0)))[0, 0, 0],
        [0.25, 0.75],
    )
    with pytest.raises(errors.UserError, match=r"'image' is .* uint8, and it was .* float32"):
        bound(floats, "users_module:to_bytes")
