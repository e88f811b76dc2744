"""Tests of repeated augmentation (`data.repeats`), resident and streamed."""

import collections
import contextlib
import dataclasses
import itertools
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from cnn_jax import data, errors
from cnn_jax.contracts import Batch, Feed, Source
from cnn_jax.data import images
from cnn_jax.data.order import Order
from cnn_jax.data.sources import folders
from tests.feeds import WHOLE, bind, numbered, stream, taken
from tests.streams import write_folder

pytestmark = [pytest.mark.xdist_group("feeds"), pytest.mark.usefixtures("shared_programs")]

# The first indices that each of three processes draws of 256 examples in stored order: timm 1.0.31,
# RepeatAugSampler(range(256), num_replicas=3, rank=rank, shuffle=False, num_repeats=3).
_TIMM = [[0, 1, 2, 3, 4, 5]] * 3


@pytest.fixture(scope="module")
def source() -> Source:
    return numbered(32)


def test_a_batch_is_those_of_as_many_processes_of_timm() -> None:
    plain, repeated = Order(256, 6, seed=3), Order(256, 6, seed=3, repeats=3)
    assert repeated.steps_per_epoch == plain.steps_per_epoch == 42
    distinct = [plain.example(0, row) for row in range(6)]
    for step in range(3):
        batch = [repeated.example(step, row) for row in range(6)]
        parts = [process[2 * step : 2 * step + 2] for process in _TIMM]
        assert batch == [distinct[index] for part in parts for index in part]


@pytest.mark.parametrize(("size", "repeats"), [(8, 4), (9, 3), (7, 3), (9, 8), (3, 1)])
def test_each_example_is_shown_as_often_and_apart_from_its_copies(size: int, repeats: int) -> None:
    order = Order(100, size, seed=1, repeats=repeats)
    shown = [order.example(step, row) for step in range(4) for row in range(size)]
    counts = collections.Counter(shown)
    assert sum(counts.values()) == 4 * size
    assert len(counts) == -(-4 * size // repeats)
    assert max(counts.values()) == repeats
    if size % repeats == 0:
        batches = np.reshape(shown, (4, size))
        assert (batches != np.roll(batches, 1, 1)).all()
        is_even = size // repeats % 2 == 0
        assert (batches != batches[:, ::-1]).all() == is_even


@pytest.mark.parametrize("storage", ["streamed", "resident"])
def test_a_batch_shows_each_example_several_times_and_an_epoch_is_as_long(
    source: Source, storage: str
) -> None:
    options = {"storage": storage, **WHOLE}
    feed, plain = bind(source, repeats=4, **options), bind(source, **options)
    assert feed.steps_per_epoch == plain.steps_per_epoch == 4
    shown = [np.asarray(batch["label"]).tolist() for batch in _batches(feed, 8)]
    for batch in shown:
        assert set(collections.Counter(batch).values()) == {4}
    for epoch in (shown[:4], shown[4:]):
        assert len({label for batch in epoch for label in batch}) == 8
    assert shown[:4] != shown[4:]
    once = [label for batch in _batches(plain, 4) for label in np.asarray(batch["label"]).tolist()]
    assert [label for batch in shown[:4] for label in batch[:2]] == once[:8]


def test_copies_of_an_example_have_crops_of_their_own(source: Source) -> None:
    found = taken(stream(source, repeats=4, train_crop="random_resized", **WHOLE), 0, 1)
    assert len(np.unique(found["image"].reshape(8, -1), axis=0)) == 8
    again = taken(stream(source, repeats=4, train_crop="random_resized", **WHOLE), 0, 3)
    np.testing.assert_array_equal(again["image"][:1], found["image"])
    late = taken(stream(source, repeats=4, train_crop="random_resized", **WHOLE), 2, 1)
    np.testing.assert_array_equal(late["image"], again["image"][2:])


def test_a_host_makes_its_rows_of_the_whole_batch(source: Source) -> None:
    whole = stream(source, repeats=4, train_crop="random_resized", **WHOLE).host_batches()
    part = dataclasses.replace(whole, rows=(1, 2, 6, 7))
    for step in (0, 5):
        for name in ("image", "label"):
            np.testing.assert_array_equal(part[step][name], whole[step][name][[1, 2, 6, 7]])


def test_resident_copies_are_augmented_apart(source: Source) -> None:
    feed = bind(source, storage="resident", repeats=8, crop_padding=4, flip=True, **WHOLE)
    (batch,) = _batches(feed, 1)
    assert len(set(np.asarray(batch["label"]).tolist())) == 1
    assert len(np.unique(np.asarray(batch["image"]).reshape(8, -1), axis=0)) > 4


def test_an_image_is_decoded_once_for_its_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "train", list(range(8)))
    source = folders.source(str(tmp_path))
    options = {**WHOLE, "train_crop": "random_resized"}
    expected = stream(source, **options).host_batches()
    batches = stream(source, repeats=4, **options).host_batches()
    decode = mock.Mock(wraps=images.decode)
    monkeypatch.setattr(images, "decode", decode)
    found = batches[0]
    assert decode.call_count == 2
    # The crop of a place depends on the place; where the example is equal, so are the pixels.
    np.testing.assert_array_equal(found["image"][0], expected[0]["image"][0])


def test_more_repeats_than_a_batch_has_places_are_refused(source: Source) -> None:
    with pytest.raises(errors.UserError, match=r"data.repeats 9 is larger than train.batch_size 8"):
        bind(source, repeats=9, **WHOLE)


def _batches(feed: Feed, steps: int) -> list[Batch]:
    """Returns the batches of the first steps of a run."""
    with contextlib.closing(feed):
        return list(itertools.islice(data.train_batches(feed, seed=0), steps))
