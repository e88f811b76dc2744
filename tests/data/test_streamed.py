"""Tests of the streamed feed: order, batches, statistics, splits and storage."""

import contextlib
import dataclasses
import itertools
import re
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import data, errors
from cnn_jax.contracts import Source
from cnn_jax.data import imagenet, moments, resident, streamed
from cnn_jax.data.order import Order, crop_rng
from cnn_jax.data.resident import Resident
from cnn_jax.data.sources import folders
from cnn_jax.data.streamed import Streamed
from cnn_jax.runtime import prng
from tests.feeds import (
    MOMENTS,
    MOMENTS_GREY,
    RANDOM,
    WHOLE,
    bind,
    by_label,
    calls,
    check_equal,
    evaluated,
    make_plan,
    numbered,
    stream,
    taken,
)
from tests.streams import pictures, wait_until, write_folder

# In one process, so that programs of equal shapes are compiled once.
pytestmark = [pytest.mark.xdist_group("feeds"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 training JPEGs in which each has a class of its own; do not change it."""
    root = tmp_path_factory.mktemp("jpegs")
    write_folder(root / "train", list(range(32)))
    return root


@pytest.fixture(scope="module", params=["arrays", "folder"])
def source(request: pytest.FixtureRequest, jpegs: Path) -> Source:
    """A set of 32 examples in which each has a class of its own."""
    return numbered(32) if request.param == "arrays" else folders.source(str(jpegs))


# Order.


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 200), batch=st.integers(1, 200), seed=st.integers(0, 9), epoch=st.integers()
)
def test_an_epoch_shows_each_example_at_most_once(
    size: int, batch: int, seed: int, epoch: int
) -> None:
    batch, epoch = min(batch, size), abs(epoch)
    order = Order(size, batch, seed)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    shown = [order.example(step, row) for step in steps for row in range(batch)]
    assert len(shown) == size - size % batch
    assert len(set(shown)) == len(shown)
    assert set(shown) <= set(range(size))


def test_the_order_is_that_of_earlier_versions() -> None:
    # A run that another version continues must see the same examples.
    order = Order(10, 5, seed=7)
    found = [[order.example(step, row) for row in range(5)] for step in range(4)]
    assert found == [[3, 8, 2, 1, 0], [4, 9, 5, 7, 6], [9, 1, 0, 5, 4], [2, 6, 3, 7, 8]]
    assert crop_rng(7, 3).integers(0, 1000, 4).tolist() == [432, 880, 199, 925]


def test_each_epoch_and_each_seed_has_an_order_of_its_own(source: Source) -> None:
    labels = {seed: taken(stream(source, seed=seed, **WHOLE), 0, 8)["label"] for seed in (0, 1)}
    epochs = [labels[seed].reshape(2, 32)[epoch].tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(epoch) == list(range(32)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert list(range(32)) not in epochs
    again = taken(stream(source, seed=1, **WHOLE), 0, 8)["label"]
    np.testing.assert_array_equal(again, labels[1])


def test_examples_beyond_the_last_whole_batch_are_left_for_other_epochs(source: Source) -> None:
    feed = stream(source, batch_size=12, **WHOLE)
    assert feed.steps_per_epoch == 2
    shown = taken(feed, 0, 16)["label"].reshape(8, 24)
    assert [len(set(epoch)) for epoch in shown.tolist()] == [24] * 8
    assert len(np.unique(shown)) == 32


def test_a_stream_that_starts_at_any_step_is_that_of_the_whole_run(source: Source) -> None:
    whole = taken(stream(source, **WHOLE, **RANDOM), 0, 11)
    for start in (1, 3, 4, 9):
        part = taken(stream(source, **WHOLE, **RANDOM), start, 11 - start)
        check_equal(part, {name: array[start:] for name, array in whole.items()})


def test_crops_depend_on_the_place_in_the_run_and_not_on_the_order(source: Source) -> None:
    random = taken(stream(source, **WHOLE, **RANDOM), 0, 8)
    np.testing.assert_array_equal(random["label"], taken(stream(source, **WHOLE), 0, 8)["label"])
    images = by_label(random, 0, 4), by_label(random, 4, 8)
    equal = [np.array_equal(images[0][label], images[1][label]) for label in range(32)]
    assert not any(equal)


def test_worker_processes_make_the_batches_of_this_process(jpegs: Path) -> None:
    source = folders.source(str(jpegs))
    expected = taken(stream(source, **WHOLE, **RANDOM), 2, 7)
    found = taken(stream(source, workers=2, **WHOLE, **RANDOM), 2, 7)
    check_equal(found, expected)
    assert len(np.unique(found["label"])) > 8


def test_a_call_of_several_steps_has_their_batches(source: Source) -> None:
    single = taken(stream(source, **WHOLE, **RANDOM), 1, 8)
    feed = stream(source, steps_per_call=3, **WHOLE, **RANDOM)
    ranges = [range(1, 4), range(4, 6), range(6, 9)]
    with contextlib.closing(feed):
        for call, inputs in feed.train_inputs(ranges):
            for name, array in inputs.items():
                assert len(array) == 3
                found, expected = np.asarray(array), single[name][call.start - 1 : call.stop - 1]
                np.testing.assert_array_equal(found[: len(call)], expected)
                assert not found[len(call) :].any()


def test_batches_are_those_of_the_training_steps() -> None:
    keys = {"seed": 5, "crop_padding": 2, "flip": True, **WHOLE}
    feed, single = stream(numbered(32), steps_per_call=2, **keys), stream(numbered(32), **keys)
    with contextlib.closing(feed), contextlib.closing(single):
        _, inputs = next(iter(feed.train_inputs([range(3, 5)])))
        batches = data.train_batches(single, seed=5, start_step=3)
        for index, step in enumerate((3, 4)):
            augment_key, _ = prng.for_step(5, step)
            expected = jax.jit(feed.train_batch)(inputs, index, augment_key)
            check_equal(next(batches), expected)
            assert {key: (part.shape, part.dtype.name) for key, part in expected.items()} == {
                "image": ((8, 16, 16, 3), "float32"),
                "label": ((8,), "int32"),
                "weight": ((8,), "float32"),
            }


def test_padded_training_images_are_those_of_the_resident_feed(source: Source) -> None:
    streamed_, resident_ = (
        bind(source, storage=storage, **WHOLE, **MOMENTS) for storage in ("streamed", "resident")
    )
    assert isinstance(streamed_, Streamed)
    assert isinstance(resident_, Resident)
    images = []
    for feed in (streamed_, resident_):
        batches = data.train_batches(feed, seed=0)
        parts = [next(batches) for _ in range(4)]
        feed.close()
        joined = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        images.append(by_label(joined, 0, 4))
    assert images[0].keys() == images[1].keys() == set(range(32))
    for label in range(32):
        np.testing.assert_array_equal(images[0][label], images[1][label])


def test_closing_in_the_middle_ends_the_stream_and_its_threads() -> None:
    before = set(threading.enumerate())
    feed = stream(numbered(32), **WHOLE)
    training, evaluation = feed.train_inputs(calls(0, 99)), feed.eval_inputs("train", 2)
    next(training)
    next(evaluation)
    feed.close()
    assert list(training) == []
    assert list(evaluation) == []
    wait_until(lambda: set(threading.enumerate()) <= before, 5, "without threads")
    feed.close()


# Evaluation.


def test_evaluation_counts_each_example_once_in_stored_order(source: Source) -> None:
    feed = stream(source, eval_crop="centre")
    places = {"train": range(26), "validation": range(26, 29), "test": range(29, 32)}
    for (split, indices), batch_size in itertools.product(places.items(), (1, 5, 100)):
        batch = evaluated(feed, split, batch_size)
        shown = batch["weight"] == 1
        stored = source.splits["train"].labels()[list(indices)]
        np.testing.assert_array_equal(batch["label"][shown], stored)
        assert not batch["weight"][~shown].any()
        assert not batch["unreadable"].any()


@pytest.mark.parametrize("changes", [{}, {"image_width": 24}, {"channels": 1, **MOMENTS_GREY}])
def test_evaluation_batches_are_those_of_the_resident_feed(
    source: Source, changes: dict[str, Any]
) -> None:
    feeds = [
        bind(source, storage=storage, **{**MOMENTS, **changes})
        for storage in ("streamed", "resident")
    ]
    for split in ("train", "validation"):
        found, expected = (evaluated(feed, split, 5) for feed in feeds)
        # Only the padding of a split smaller than a batch differs.
        rows, shown = found["weight"] == 1, expected["weight"] == 1
        assert rows.sum() == shown.sum() == feeds[0].size(split)
        for name in ("image", "label"):
            np.testing.assert_array_equal(found[name][rows], expected[name][shown])


# Mean and standard deviation.


def test_colour_has_the_statistics_of_imagenet() -> None:
    description = stream(numbered(16)).description
    assert (description.mean, description.std) == (imagenet.MEAN, imagenet.STD)


def test_grey_has_the_statistics_of_the_training_images() -> None:
    source = numbered(40, channels=1)
    description = stream(source, channels=1, train_split="train[:32]").description
    exact = moments.Moments(1)
    for index in range(32):
        exact.add(source.splits["train"][index]["image"])
    assert (description.mean, description.std) == exact.mean_and_std()


def test_statistics_are_of_the_first_places_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    source = numbered(32, channels=1)
    monkeypatch.setattr(streamed, "MOMENTS_SIZE", 10)
    feed = stream(source, channels=1, **WHOLE)
    shown = taken(feed, 0, 2)["label"].ravel()[:10].tolist()
    exact = moments.Moments(1)
    for index in shown:
        exact.add(source.splits["train"][index]["image"])
    assert (feed.description.mean, feed.description.std) == exact.mean_and_std()


@pytest.mark.parametrize("storage", ["streamed", "resident"])
def test_keys_and_stored_descriptions_replace_the_statistics(storage: str) -> None:
    source = numbered(16)
    given = bind(source, storage=storage, **MOMENTS).description
    assert (given.mean, given.std) == (MOMENTS["mean"], MOMENTS["std"])
    stored = dataclasses.replace(given, mean=(0.25, 0.5, 0.75))
    feed = bind(source, storage=storage, description=stored)
    assert feed.description == stored
    check_equal(
        evaluated(feed, "test", 4),
        evaluated(bind(source, storage=storage, mean=stored.mean, std=stored.std), "test", 4),
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mean": (0.5,)}, "data.mean and data.std must be empty, or have one value for each of"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "the 3 channels, got (0.5, 0.5) and (1.0, 1.0)"),
        ({**MOMENTS, "std": (0.2, 0.0, 0.2)}, "data.std must be numbers greater than 0"),
        ({"storage": "resident", **RANDOM}, "data.train_crop 'random_resized'"),
        ({"storage": "stream"}, "data.storage must be auto, resident or streamed, got 'stream'"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        data.check(make_plan(**keys).data)


# Splits and storage.


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"train": 20}, {"train": range(16), "validation": (16, 17), "test": (18, 19)}),
        (
            {"train": 10, "validation": 3},
            {"train": range(10), "validation": range(100, 103)},
        ),
        (
            {"train": 10, "test": 4},
            {"train": range(9), "validation": (9,), "test": range(200, 204)},
        ),
        (
            {"train": 10, "validation": 3, "test": 4},
            {"train": range(10), "validation": range(100, 103), "test": range(200, 204)},
        ),
    ],
    ids="+".join,
)
def test_automatic_splits_follow_the_stored_splits(
    stored: dict[str, int], expected: dict[str, range]
) -> None:
    first = {"train": 0, "validation": 100, "test": 200}
    source = data.from_arrays(
        {
            split: (pictures(count), range(first[split], first[split] + count))
            for split, count in stored.items()
        }
    )
    feed = stream(source, batch_size=4)
    assert {split: feed.size(split) for split in feed.splits} == {
        split: len(labels) for split, labels in expected.items()
    }
    for split, labels in expected.items():
        batch = evaluated(feed, split, 64)
        assert batch["label"][batch["weight"] == 1].tolist() == list(labels)


def test_sizes_are_checked_and_an_unknown_split_is_named() -> None:
    feed = stream(numbered(20), train_split="train[:60%]", validation_split="train[60%:]")
    assert feed.steps_per_epoch == 1
    with pytest.raises(errors.UserError, match="'tset'; did you mean 'test'"):
        feed.size("tset")
    with pytest.raises(errors.UserError, match="unknown split 'tset'"):
        next(iter(feed.eval_inputs("tset", 8)))
    with pytest.raises(
        errors.UserError, match="batch_size 17 is larger than the 16 training examples"
    ):
        stream(numbered(20), batch_size=17)


@pytest.mark.parametrize(
    ("keys", "limit", "storage"),
    [
        ({}, 2**33, "resident"),
        ({}, 20 * 16 * 16 * 3, "resident"),
        ({}, 20 * 16 * 16 * 3 - 1, "streamed"),
        ({"image_width": 17}, 20 * 16 * 16 * 3, "streamed"),
        ({"train_split": "train[:50%]"}, 14 * 16 * 16 * 3, "resident"),
        (RANDOM, 2**33, "streamed"),
        ({"train_crop": "centre"}, 2**33, "streamed"),
        ({"eval_crop": "centre"}, 2**33, "streamed"),
        ({"storage": "streamed"}, 2**33, "streamed"),
        ({"storage": "resident"}, 1, "resident"),
    ],
)
def test_storage_follows_the_size_and_the_crops(
    keys: dict[str, Any], limit: int, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "MAX_RESIDENT_BYTES", limit)
    plan_ = make_plan(**{"storage": "auto", **keys})
    assert data.resolve(plan_, numbered(20)).data.storage == storage


def test_a_set_that_is_too_large_is_streamed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "MAX_RESIDENT_BYTES", 100)
    assert isinstance(bind(numbered(20), storage="auto"), Streamed)
    with pytest.raises(errors.UserError, match=r"data\.storage 'streamed' or 'auto'"):
        bind(numbered(20), storage="resident")
