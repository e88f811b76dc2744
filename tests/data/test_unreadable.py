"""Tests of unreadable images: they are skipped, counted and named, or an error."""

import contextlib
import itertools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import data, errors, evaluators, plan
from cnn_jax.contracts import Batch, Feed, Source
from cnn_jax.data import moments, reading
from cnn_jax.data.sources import folders
from cnn_jax.runtime import sharding
from tests.feeds import MOMENTS, RANDOM, WHOLE, bind, calls, check_equal, evaluated, stream, taken
from tests.streams import write_folder


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def text(file: Path) -> None:
    file.write_text("This is no picture.")


def damaged_folder(root: Path, labels: list[int]) -> Source:
    """Writes 16 training JPEGs, one in each class, and damages those of some labels."""
    files = write_folder(root / "train", list(range(16)))
    for label, damage in zip(labels, (truncate, empty, text) * len(labels), strict=False):
        damage(files[label])
    return folders.source(str(root))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "unreadable" in message]


def test_an_unreadable_image_has_weight_0_and_the_pixels_of_the_next_readable_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {**WHOLE, **RANDOM, "max_bad_images": 3}
    clean = taken(stream(damaged_folder(tmp_path / "clean", []), **keys), 0, 4)
    order = clean["label"][0].tolist()
    bad = [order[row] for row in (2, 3, 7)]
    feed = stream(damaged_folder(tmp_path / "damaged", bad), **keys)
    found = taken(feed, 0, 4)

    expected = {name: array.copy() for name, array in clean.items()}
    for row, source_row in ((2, 4), (3, 4), (7, 0)):
        for name in ("image", "label"):
            expected[name][0, row] = clean[name][0, source_row]
    expected["weight"][0, [2, 3, 7]] = 0
    expected["unreadable"][0, [2, 3, 7]] = 1
    check_equal({n: a[:2] for n, a in found.items()}, {n: a[:2] for n, a in expected.items()})
    assert found["unreadable"][2:].sum() == 3  # The second epoch.

    messages = warnings_of(caplog)
    assert len(messages) == len(feed.problems) == 3
    for label in bad:
        assert sum(f"{label:03}/0-{label}.jpg" in message for message in messages) == 1


def test_no_black_picture_enters_the_statistics_of_a_batch(tmp_path: Path) -> None:
    feed = stream(damaged_folder(tmp_path, [1, 5, 9]), max_bad_images=9, crop_padding=0, **WHOLE)
    batches = data.train_batches(feed, seed=0)
    for batch in (next(batches), next(batches)):
        image, weight = np.asarray(batch["image"]), np.asarray(batch["weight"])
        for row in np.flatnonzero(weight == 0).tolist():
            assert any(np.array_equal(image[row], other) for other in image[weight == 1])
    feed.close()


@pytest.mark.parametrize("storage", ["streamed", "resident"])
@pytest.mark.parametrize("allowed", [0, 2])
def test_too_many_unreadable_images_are_an_error_that_names_file_and_key(
    tmp_path: Path, storage: str, allowed: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = damaged_folder(tmp_path, [2, 3, 7])
    keys = {**WHOLE, "storage": storage, "max_bad_images": allowed}
    with pytest.raises(errors.UserError) as info:
        taken(bind(source, **keys), 0, 2)
    count = "1 unreadable image" if allowed == 0 else "3 unreadable images"
    assert f"{count}, data.max_bad_images allows {allowed}: mend or remove" in str(info.value)
    assert "with --config.data.max_bad_images=" in str(info.value)
    assert re.search(r"\b00[237]/0-[237]\.jpg", str(info.value))
    assert len(warnings_of(caplog)) == allowed


def test_a_batch_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    source = damaged_folder(tmp_path, list(range(16)))
    with pytest.raises(errors.UserError, match="no image of the batch of step 0 can be read"):
        taken(stream(source, max_bad_images=99, **WHOLE), 0, 1)
    with pytest.raises(errors.UserError, match="no image of train can be read"):
        bind(source, storage="resident", max_bad_images=99, **WHOLE)


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_file_that_vanishes_during_an_epoch(tmp_path: Path, allowed: int) -> None:
    files = write_folder(tmp_path / "train", list(range(64)))
    source = folders.source(str(tmp_path))
    keys = {**WHOLE, "batch_size": 2, "max_bad_images": allowed}
    last = taken(stream(source, **keys), 31, 1)["label"][0].tolist()
    feed = stream(source, **keys)
    with contextlib.closing(feed):
        inputs = feed.train_inputs(calls(0, 32))
        next(inputs)
        files[last[0]].unlink()
        rest = itertools.islice(inputs, 30)
        assert len(list(rest)) == 30
        if allowed:
            _, final = next(inputs)
            assert np.asarray(final["weight"]).tolist() == [[0, 1]]
            assert np.asarray(final["label"]).tolist() == [[last[1], last[1]]]
        else:
            message = f"{files[last[0]]}: cannot be read: No such file or directory. 1 unreadable"
            with pytest.raises(errors.UserError, match=re.escape(message)):
                next(inputs)


def measured(feed: Feed, split: str, batch_size: int) -> tuple[dict[str, float], np.ndarray]:
    """Returns the metrics and the confusion matrix of a network without parameters."""
    weights = np.random.default_rng(0).normal(0, 1, (3, 16)).astype(np.float32)

    def predict(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        return {"logits": batch["image"].mean((1, 2)) @ weights}

    evaluator = evaluators.make(plan.Plan())[evaluators.MAIN]
    evaluate = evaluators.prepare(predict, feed, evaluator, sharding.make_layout())
    result = evaluate({}, split, batch_size)
    return result.values, result.details["confusion"]


@pytest.mark.parametrize("storage", ["streamed", "resident"])
def test_evaluation_leaves_unreadable_images_out_of_the_metrics(
    tmp_path: Path, storage: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "images"
    damaged_folder(root, [])
    files = write_folder(root / "test", [0, 3, 5, 7, 9, 11, 13], seed=1)
    damaged = [files[1], files[4], files[6]]
    for file in damaged:
        truncate(file)
    keys = {"storage": storage, "max_bad_images": 3, **MOMENTS}
    feed = bind(folders.source(str(root)), **keys)
    assert feed.size("test") == 7
    for batch_size in (2, 16):
        batch = evaluated(feed, "test", batch_size)
        assert batch["unreadable"].sum() == 3
        assert batch["weight"].sum() == 4
        assert not np.any(batch["unreadable"] * batch["weight"])
    found = [measured(feed, "test", batch_size) for batch_size in (2, 16)]
    assert len(warnings_of(caplog)) == 3
    for file in damaged:
        file.unlink()
    remaining = bind(folders.source(str(root)), **keys)
    values, confusion = measured(remaining, "test", 16)
    assert confusion.sum() == 4
    for found_values, found_confusion in found:
        np.testing.assert_array_equal(found_confusion, confusion)
        assert found_values == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("storage", ["streamed", "resident"])
def test_unreadable_images_of_all_splits_are_counted_together(tmp_path: Path, storage: str) -> None:
    damaged_folder(tmp_path, [4])
    truncate(write_folder(tmp_path / "test", [0, 1])[0])
    keys = {"storage": storage, "train_split": "train", "validation_split": "", **MOMENTS}

    def read_all(allowed: int) -> None:
        feed = bind(folders.source(str(tmp_path)), max_bad_images=allowed, **keys)
        with contextlib.closing(feed):
            assert len(list(feed.train_inputs(calls(0, 2)))) == 2
            evaluated(feed, "test", 2)

    read_all(2)
    with pytest.raises(
        errors.UserError, match=r"2 unreadable images, data\.max_bad_images allows 1"
    ):
        read_all(1)


def test_a_resident_set_trains_on_the_next_readable_image_with_weight_0(tmp_path: Path) -> None:
    source = damaged_folder(tmp_path, [2, 3, 7])
    feed = bind(source, storage="resident", max_bad_images=3, **WHOLE, **MOMENTS)
    readable = evaluated(feed, "train", 16)
    batches = data.train_batches(feed, seed=0)
    weights = []
    for batch in (next(batches), next(batches)):
        assert not np.any(batch["weight"][np.isin(batch["label"], (2, 3, 7))])
        weights.append(np.asarray(batch["weight"]))
        for image in np.asarray(batch["image"]):
            matches = (image == readable["image"]).all((1, 2, 3))
            assert (matches & (readable["weight"] == 1)).any()
    assert np.concatenate(weights).sum() == 13


def test_statistics_leave_unreadable_images_out(tmp_path: Path) -> None:
    source = damaged_folder(tmp_path, [2, 3])
    exact = moments.Moments(1)
    messages: list[str] = []
    for image, _ in reading.decoded(
        source.splits["train"], range(16), 1, np.dtype(np.uint8), messages.append
    ):
        if image is not None:
            exact.add(image)
    for storage in ("streamed", "resident"):
        feed = bind(source, storage=storage, channels=1, max_bad_images=2, **WHOLE)
        assert (feed.description.mean, feed.description.std) == exact.mean_and_std()
