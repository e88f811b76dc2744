"""Tests of the resident feed: order, batches, splits, moments and the description."""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn_jax import data, errors, plan
from cnn_jax.contracts import Batch, Description, Inputs
from cnn_jax.data.moments import Moments
from cnn_jax.data.resident import Resident
from cnn_jax.runtime import prng, sharding

# In one process, so that programs of equal shapes are compiled once.
pytestmark = [pytest.mark.xdist_group("feeds"), pytest.mark.usefixtures("shared_programs")]
KEY = jax.random.key(0)
# All 64 examples of the fake source, in eight batches an epoch.
WHOLE: dict[str, Any] = {
    "source": "fake",
    "image_size": 8,
    "train_split": "train",
    "validation_split": "",
}


def make(
    *, batch_size: int = 8, seed: int = 0, description: Description | None = None, **changes: Any
) -> Resident:
    """Returns the feed of a plan: the default keys of `data` with changes."""
    plan_ = plan.read({"seed": seed, "data": changes, "train": {"batch_size": batch_size}})
    source = data.open_source(plan_.data)
    feed = data.bind(source, plan_, sharding.make_layout(), description)
    assert isinstance(feed, Resident)
    return feed


def evaluated(feed: Resident, split: str, batch_size: int) -> Batch:
    """Returns the fields of all examples of a split, without padding, in evaluation order."""
    eval_batch = jax.jit(feed.eval_batch)
    batches = [eval_batch(inputs) for inputs in feed.eval_inputs(split, batch_size)]
    parts = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    assert set(parts["weight"].tolist()) <= {0.0, 1.0}
    return {key: part[parts["weight"] == 1] for key, part in parts.items()}


def moments_of(pictures: list[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    sums = Moments(pictures[0].shape[-1])
    for picture in pictures:
        sums.add(picture)
    return sums.mean_and_std()


def single_steps(start_step: int, steps: int) -> Iterator[range]:
    """Yields calls of one step each."""
    return (range(step, step + 1) for step in range(start_step, start_step + steps))


def first_inputs(feed: Resident) -> Inputs:
    """Returns the inputs of the first training step."""
    return next(feed.train_inputs(single_steps(0, 1)))[1]


def trained(feed: Resident, start_step: int, steps: int) -> np.ndarray:
    """Returns `[steps, batch]`: the index of each example in the batches from `start_step` on."""
    everything = evaluated(feed, "train", 1000)
    train_batch = jax.jit(feed.train_batch)
    rows = []
    for _, inputs in feed.train_inputs(single_steps(start_step, steps)):
        batch = train_batch(inputs, 0, KEY)
        difference = np.asarray(batch["image"])[:, None] - np.asarray(everything["image"])
        row = np.abs(difference).sum((2, 3, 4)).argmin(1)
        np.testing.assert_array_equal(batch["label"], everything["label"][row])
        rows.append(row)
    return np.stack(rows)


def test_every_epoch_shows_every_example_once_in_another_order() -> None:
    first, second = trained(make(**WHOLE), 0, 16).reshape(2, 64)
    assert sorted(first) == sorted(second) == list(range(64))
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(64))


def test_examples_beyond_the_last_whole_batch_are_left_for_other_epochs() -> None:
    feed = make(**WHOLE | {"batch_size": 24})
    assert feed.steps_per_epoch == 2
    shown = trained(feed, 0, 20).reshape(10, 48)
    assert [len(set(epoch)) for epoch in shown.tolist()] == [48] * 10
    assert len(np.unique(shown)) == 64


def test_the_order_is_a_function_of_the_seed() -> None:
    one, again, other = (trained(make(**WHOLE, seed=seed), 0, 8).tolist() for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_resumed_stream_continues_the_uninterrupted_one() -> None:
    feed = make(**WHOLE)
    whole = trained(feed, 0, 31)
    for start in (1, 7, 8, 9, 21):
        np.testing.assert_array_equal(trained(feed, start, 10), whole[start : start + 10])


def test_augmentation_changes_the_training_images_by_the_key_alone() -> None:
    plain, augmented = make(**WHOLE), make(**WHOLE, crop_padding=2, flip=True)
    inputs = first_inputs(augmented)
    one, again, other = (
        augmented.train_batch(inputs, 0, jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one["image"], again["image"])
    assert np.any(one["image"] != other["image"])
    assert np.any(one["image"] != plain.train_batch(first_inputs(plain), 0, KEY)["image"])
    np.testing.assert_array_equal(one["label"], other["label"])
    still = evaluated(plain, "test", 8)["image"]
    np.testing.assert_array_equal(evaluated(augmented, "test", 8)["image"], still)


def test_evaluation_counts_every_example_once_at_any_batch_size() -> None:
    feed = make(source="digits")
    for batch_size in (1, 7, 128, 1000):
        labels = evaluated(feed, "test", batch_size)["label"]
        np.testing.assert_array_equal(labels, load_digits().target[1437:])


def test_batches_have_the_shapes_and_dtypes_of_the_contract() -> None:
    feed = make(source="digits", channels=3)
    train = feed.train_batch(first_inputs(feed), 0, KEY)
    evaluation = feed.eval_batch(next(feed.eval_inputs("test", 8)))
    for batch in (train, evaluation):
        assert {key: (part.shape, part.dtype.name) for key, part in batch.items()} == {
            "image": ((8, 32, 32, 3), "float32"),
            "label": ((8,), "int32"),
            "weight": ((8,), "float32"),
        }
    assert np.all(train["weight"] == 1)
    assert feed.description.input_shape == (32, 32, 3)


def test_sizes_are_those_of_the_slices() -> None:
    feed = make(source="digits", batch_size=104)
    sizes = {split: feed.size(split) for split in feed.splits}
    assert sizes == {"train": 1293, "validation": 144, "test": 360}
    assert feed.steps_per_epoch == 12
    with pytest.raises(errors.UserError, match="'tset'; did you mean 'test'"):
        feed.size("tset")


@pytest.mark.parametrize(
    "changes",
    [{"source": "digits"}, {"source": "fake"}, {"source": "fake", "channels": 3}],
    ids=["digits", "fake", "fake colour"],
)
def test_training_images_have_mean_0_and_deviation_1(changes: dict[str, Any]) -> None:
    feed = make(**changes, image_size=8)
    images = evaluated(feed, "train", 512)["image"]
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize("resize", ["pad", "bilinear"])
def test_mean_and_deviation_are_those_of_the_stored_training_images_alone(resize: str) -> None:
    feed = make(source="digits", train_split="train[:500]", resize=resize)
    stored = np.rint(load_digits().images[:500] * (255 / 16)) / 255
    assert feed.description.mean == pytest.approx([stored.mean()], abs=1e-9)
    assert feed.description.std == pytest.approx([stored.std()], abs=1e-9)


def test_an_image_set_without_contrast_stays_finite() -> None:
    mean, std = moments_of([np.full((2, 2, 1), 7, np.uint8)] * 3)
    assert mean == pytest.approx([7 / 255])
    assert std == pytest.approx([1 / 255])


def test_every_pixel_has_the_same_weight_in_the_moments_of_images_of_several_sizes() -> None:
    pictures = [np.zeros((1, 3, 1), np.uint8), np.full((1, 1, 1), 255, np.uint8)]
    mean, std = moments_of(pictures)
    assert mean == pytest.approx([1 / 4])
    assert std == pytest.approx([np.sqrt(3) / 4])


def test_the_description_is_complete_and_can_be_written_as_json() -> None:
    description = make(source="digits", channels=3).description
    assert json.loads(json.dumps(dataclasses.asdict(description))) == {
        "class_names": list("0123456789"),
        "native_size": [8, 8],
        "input_shape": [32, 32, 3],
        "mean": list(description.mean),
        "std": list(description.std),
        "peak": 255.0,
        "sizes": {"train": 1293, "validation": 144, "test": 360},
        "hashes": description.hashes,
        "covariance": [],
        "eval_size": None,
    }
    assert {len(digest) for digest in description.hashes.values()} == {64}
    assert len(description.mean) == len(description.std) == 3
    assert description.num_classes == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "digit"}, "unknown data.source 'digit'; did you mean 'digits'"),
        ({"train_split": "trian"}, "unknown split 'trian'; did you mean 'train'"),
        ({"test_split": "validation"}, "unknown split 'validation'"),
        ({"train_split": ""}, "data.train_split must be a split, not empty, got ''"),
        (
            {"resize": "bicubik"},
            "data.resize must be pad, bilinear or bicubic, or empty, got 'bicubik'",
        ),
        ({"channels": 2}, "train, image 0 has 1 channels (shape [8, 8, 1]), but 2 are wanted"),
        ({"channels": 17}, "data.channels must be at least 0 and below 17, got 17"),
        ({"image_size": -1}, "data.image_size must be at least 0, got -1"),
        ({"image_size": 4}, "'pad' cannot bring 8x8 pixels to 4x4"),
        (
            {"image_size": 8192, "storage": "resident"},
            "more than the 8 GiB that a device may hold; stream them with data.storage 'streamed'",
        ),
        ({"crop_padding": -1}, "data.crop_padding must be at least 0, got -1"),
        ({"crop_padding": 32}, "data.crop_padding must be in [0, 32) pixels, got 32"),
        ({"image_size": 40, "image_width": 20, "crop_padding": 20}, "be in [0, 20) pixels, got 20"),
        ({"batch_size": 0}, "train.batch_size must be at least 1, got 0"),
        ({"batch_size": 2048}, "train.batch_size 2048 is larger than the 1293 training examples"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        make(**{"source": "digits", **changes})


@pytest.mark.parametrize(
    ("train_split", "validation_split", "warned"),
    [
        ("train[:90%]", "train[80%:]", True),
        ("train", "train[90%:]", True),
        ("train[:90%]", "train[90%:]", False),
        ("train[10%:]", "train[:10%]", False),
        ("train", "test", False),
    ],
)
def test_a_split_that_shares_training_examples_gives_a_warning(
    train_split: str, validation_split: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make(source="digits", train_split=train_split, validation_split=validation_split)
    message = "data.validation_split shares examples with data.train_split"
    assert caplog.messages == [message] * warned


def test_batches_are_those_of_the_training_and_evaluation_steps() -> None:
    feed = make(source="digits", image_size=32, crop_padding=4, flip=True, seed=5)
    batches = data.train_batches(feed, seed=5, start_step=3)
    _, inputs = next(feed.train_inputs([range(3, 5)]))
    for index, step in enumerate((3, 4)):
        augment_key, _ = prng.for_step(5, step)
        expected = feed.train_batch(inputs, index, augment_key)
        batch = next(batches)
        assert batch.keys() == {"image", "label", "weight"} == expected.keys()
        for name, array in batch.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6)
    evaluation = list(data.eval_batches(feed, "test", 8))
    assert {batch["image"].shape for batch in evaluation} == {(8, 32, 32, 1)}
    labels = [batch["label"][batch["weight"] > 0] for batch in evaluation]
    np.testing.assert_array_equal(np.concatenate(labels), feed.splits["test"].labels)


def test_inputs_may_be_wider_than_high() -> None:
    feed = make(source="digits", image_size=10, image_width=14, channels=3)
    assert feed.description.input_shape == (10, 14, 3)
    train = feed.train_batch(first_inputs(feed), 0, KEY)
    assert train["image"].shape == (8, 10, 14, 3)
    images = evaluated(feed, "test", 100)["image"]
    assert images.shape == (360, 10, 14, 3)
    # The stored 8x8 pixels are in the centre, on black.
    mean, std = np.array(feed.description.mean), np.array(feed.description.std)
    pixels = np.rint((images * std + mean) * 255)
    stored = np.rint(load_digits().images[1437:] * (255 / 16))[..., None].repeat(3, -1)
    np.testing.assert_array_equal(pixels[:, 1:9, 3:11], stored)
    assert pixels.sum() == stored.sum()


def test_the_moments_of_a_stored_description_are_used() -> None:
    own = make(source="digits")
    stored = dataclasses.replace(own.description, mean=(0.25,), std=(0.5,))
    feed = make(source="digits", description=stored)
    assert feed.description == stored
    for split in ("train", "test"):
        bytes_ = np.asarray(feed.splits[split].images, np.float32)
        expected = (bytes_ / 255 - 0.25) / 0.5
        np.testing.assert_allclose(evaluated(feed, split, 500)["image"], expected, atol=1e-6)
