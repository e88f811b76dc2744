import json
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn_jax import data, errors
from cnn_jax.runtime import prng
from configs import base

KEY = jax.random.key(0)
# All 64 examples of the fake source, in eight batches an epoch.
WHOLE = {"source": "fake", "image_size": 8, "train_split": "train", "validation_split": ""}


def make(**changes: Any) -> data.Resident:
    """The defaults of the configs, with changes."""
    return data.make(**{**base.get_config().data, "batch_size": 8, "seed": 0, **changes})


def evaluated(dataset: data.Resident, split: str, batch_size: int) -> data.Batch:
    """What counts in the evaluation of a split, one batch after the other."""
    eval_batch = jax.jit(dataset.eval_batch)
    batches = [eval_batch(inputs) for inputs in dataset.eval_inputs(split, batch_size)]
    parts = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    assert set(parts["weight"].tolist()) <= {0.0, 1.0}
    return {key: part[parts["weight"] == 1] for key, part in parts.items()}


def singly(start_step: int, steps: int) -> Iterator[range]:
    return (range(step, step + 1) for step in range(start_step, start_step + steps))


def first_inputs(dataset: data.Resident) -> data.Inputs:
    return next(dataset.train_inputs(singly(0, 1)))[1]


def trained(dataset: data.Resident, start_step: int, steps: int) -> np.ndarray:
    """Which examples are in `steps` batches from `start_step` on; `[steps, batch]` positions."""
    everything = evaluated(dataset, "train", 1000)
    train_batch = jax.jit(dataset.train_batch)
    rows = []
    for _, inputs in dataset.train_inputs(singly(start_step, steps)):
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


def test_what_does_not_fill_a_batch_waits_for_another_epoch() -> None:
    dataset = make(**WHOLE | {"batch_size": 24})
    assert dataset.steps_per_epoch == 2
    shown = trained(dataset, 0, 20).reshape(10, 48)
    assert [len(set(epoch)) for epoch in shown.tolist()] == [48] * 10
    assert len(np.unique(shown)) == 64


def test_the_order_is_a_function_of_the_seed() -> None:
    one, again, other = (trained(make(**WHOLE, seed=seed), 0, 8).tolist() for seed in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize("start_step", [1, 7, 8, 9, 21])
def test_a_resumed_stream_continues_the_uninterrupted_one(start_step: int) -> None:
    dataset = make(**WHOLE)
    expected = trained(dataset, 0, start_step + 10)[start_step:]
    np.testing.assert_array_equal(trained(dataset, start_step, 10), expected)


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


@pytest.mark.parametrize("batch_size", [1, 7, 128, 1000])
def test_evaluation_counts_every_example_once_at_any_batch_size(batch_size: int) -> None:
    labels = evaluated(make(source="digits"), "test", batch_size)["label"]
    np.testing.assert_array_equal(labels, load_digits().target[1437:])


def test_batches_have_the_shapes_and_types_that_the_steps_take() -> None:
    dataset = make(source="digits", channels=3)
    train = dataset.train_batch(first_inputs(dataset), 0, KEY)
    evaluation = dataset.eval_batch(next(dataset.eval_inputs("test", 8)))
    for batch in (train, evaluation):
        assert {key: (part.shape, part.dtype.name) for key, part in batch.items()} == {
            "image": ((8, 32, 32, 3), "float32"),
            "label": ((8,), "int32"),
            "weight": ((8,), "float32"),
        }
    assert np.all(train["weight"] == 1)
    assert dataset.input_shape == (32, 32, 3)


def test_sizes_are_those_of_the_slices() -> None:
    dataset = make(source="digits", batch_size=104)
    sizes = {split: dataset.size(split) for split in dataset.splits}
    assert sizes == {"train": 1293, "validation": 144, "test": 360}
    assert dataset.steps_per_epoch == 12
    with pytest.raises(errors.UserError, match="'tset'; did you mean 'test'"):
        dataset.size("tset")


@pytest.mark.parametrize(
    "changes",
    [{"source": "digits"}, {"source": "fake"}, {"source": "fake", "channels": 3}],
    ids=["digits", "fake", "fake colour"],
)
def test_training_images_have_mean_0_and_deviation_1(changes: dict[str, Any]) -> None:
    dataset = make(**changes, image_size=8)
    images = evaluated(dataset, "train", 512)["image"]
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize("resize", ["pad", "bilinear"])
def test_mean_and_deviation_are_those_of_the_stored_training_images_alone(resize: str) -> None:
    dataset = make(source="digits", train_split="train[:500]", resize=resize)
    stored = np.rint(load_digits().images[:500] * (255 / 16)) / 255
    assert dataset.mean == pytest.approx([stored.mean()], abs=1e-9)
    assert dataset.std == pytest.approx([stored.std()], abs=1e-9)


def test_an_image_set_without_contrast_stays_finite() -> None:
    mean, std = data.moments(np.full((3, 2, 2, 1), 7, np.uint8))
    assert mean == pytest.approx([7 / 255])
    assert std == pytest.approx([1 / 255])


def test_the_moments_of_images_of_several_sizes_weigh_every_pixel_alike() -> None:
    pictures = [np.zeros((1, 3, 1), np.uint8), np.full((1, 1, 1), 255, np.uint8)]
    mean, std = data.moments(pictures)
    assert mean == pytest.approx([1 / 4])
    assert std == pytest.approx([np.sqrt(3) / 4])


def test_the_description_is_what_other_images_need_and_fits_into_json() -> None:
    description = make(source="digits", channels=3).description()
    assert json.loads(json.dumps(description)) == {
        "class_names": list("0123456789"),
        "native_size": [8, 8],
        "input_shape": [32, 32, 3],
        "mean": list(description["mean"]),
        "std": list(description["std"]),
    }
    assert len(description["mean"]) == len(description["std"]) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "digit"}, "unknown data.source 'digit'; did you mean 'digits'"),
        ({"train_split": "trian"}, "unknown split 'trian'; did you mean 'train'"),
        ({"test_split": "validation"}, "unknown split 'validation'"),
        ({"train_split": ""}, "data.train_split is empty"),
        ({"resize": "bicubik"}, "unknown data.resize 'bicubik'; did you mean 'bicubic'"),
        ({"channels": 2}, "data.channels must be 1 or 3, got 2"),
        ({"image_size": 0}, "data.image_size must be at least 1 pixel, got 0"),
        ({"image_size": 4}, "'pad' cannot bring 8x8 pixels to 4x4"),
        ({"image_size": 8192}, "GiB that are kept on a device; take a slice"),
        ({"crop_padding": -1}, "data.crop_padding must be in [0, 32) pixels, got -1"),
        ({"crop_padding": 32}, "data.crop_padding must be in [0, 32) pixels, got 32"),
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
def test_evaluating_on_training_examples_is_warned_of(
    train_split: str, validation_split: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make(source="digits", train_split=train_split, validation_split=validation_split)
    message = "data.validation_split shares examples with data.train_split"
    assert caplog.messages == [message] * warned


def test_batches_are_those_that_the_steps_make_of_their_inputs() -> None:
    dataset = make(source="digits", image_size=32, crop_padding=4, flip=True)
    batches, (_, inputs) = dataset.train_batches(3), next(dataset.train_inputs([range(3, 5)]))
    for index, step in enumerate((3, 4)):
        augment_key, _ = prng.for_step(dataset.seed, step)
        expected = dataset.train_batch(inputs, index, augment_key)
        batch = next(batches)
        assert batch.keys() == {"image", "label", "weight"} == expected.keys()
        for name, array in batch.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6)
    labels = [batch["label"][batch["weight"] > 0] for batch in dataset.eval_batches("test")]
    np.testing.assert_array_equal(np.concatenate(labels), dataset.splits["test"].labels)
