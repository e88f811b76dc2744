"""Labels and names of classes that are not those of the data set."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import data, errors, plan
from cnn_jax.data import reading, selection
from cnn_jax.data.sources import classes, npz
from cnn_jax.data.sources.arrays import ArrayExamples, ArraySource, from_arrays
from tests.feeds import MOMENTS, WHOLE, bind, calls, evaluated

PICTURES = np.zeros((8, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("labels", [[1, 2, 3], [2, 2, 5]])
def test_labels_without_a_0_need_class_names(tmp_path: Path, labels: list[int]) -> None:
    pictures = PICTURES[:3]
    splits = {"train": (pictures, labels), "test": (pictures[:1], [labels[-1]])}
    message = rf"no example has the label 0: labels are from {labels[0]} to {labels[-1]}, but"
    with pytest.raises(errors.UserError, match=message):
        from_arrays(splits)
    np.savez(tmp_path / "svhn.npz", x_train=pictures, y_train=np.array(labels))
    with pytest.raises(errors.UserError, match=rf"svhn\.npz: {message}"):
        npz.source(tmp_path / "svhn.npz")
    assert from_arrays(splits, [*"abcdef"]).class_names == (*"abcdef",)


class Wrong(ArrayExamples):
    """Examples of which one has another label than `labels` says."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = super().__getitem__(index)
        return {**example, "label": 2} if index == 5 else example


@pytest.mark.parametrize("storage", ["resident", "streamed"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_label_that_is_no_class_is_an_error(storage: str, split: str) -> None:
    right = ArrayExamples(PICTURES, np.arange(8) % 2)
    splits = {"train": right, "test": right, split: Wrong(PICTURES, np.arange(8) % 2)}
    source = ArraySource(("a", "b"), splits)
    keys = {**WHOLE, **MOMENTS, "test_split": "test", "storage": storage}

    def read() -> None:
        with contextlib.closing(bind(source, **keys)) as feed:
            next(feed.train_inputs(calls(0, 1)))
            evaluated(feed, "test", 8)

    message = rf"{split}: labels must be from 0 to 1, the number of classes minus 1, got 2"
    with pytest.raises(errors.UserError, match=message):
        read()


def test_names_with_a_comma_are_quoted() -> None:
    source = from_arrays({"train": (PICTURES[:3], [0, 1, 2])}, ["crane, bird", "dog", "crane"])
    for given, expected in {
        '"crane, bird", dog': ("crane, bird", "dog"),
        "crane,dog": ("crane", "dog"),
    }.items():
        keys = plan.Data(classes=given)
        assert data.sources.keep_classes(source, keys).class_names == expected
    with pytest.raises(errors.UserError, match="write names in one line, separated by commas"):
        data.sources.keep_classes(source, plan.Data(classes="dog\rcrane"))


@pytest.mark.parametrize("changed", [{"mean": (123.7, 116.3, 103.5)}, {"std": (58.4, 57.1, 57.4)}])
def test_statistics_of_bytes_are_refused(changed: dict[str, tuple[float, ...]]) -> None:
    keys = plan.Data(image_size=16, channels=3, **{**MOMENTS, **changed})
    with pytest.raises(errors.UserError, match=r"of pixels from 0 to 255 by 255; got \("):
        data.check(keys)


class Many(ArrayExamples):
    """Examples that are read together only."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise AssertionError(index)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [{"image": self.images[index], "label": int(index % 3)} for index in indices]


def test_parts_of_a_split_are_read_together_where_the_source_can() -> None:
    pictures = np.arange(8, dtype=np.uint8)[:, None, None, None] + PICTURES
    many = Many(pictures, np.arange(8) % 3)
    whole: Any = selection.Selected(many, [1, 4, 5])
    found = whole.__getitems__([2, 0])
    assert [(each["image"][0, 0, 0], each["label"]) for each in found] == [(5, 2), (1, 1)]
    kept: Any = classes.keep(ArraySource(("a", "b", "c"), {"train": many}), ["c", "b"])
    found = kept.splits["train"].__getitems__([0, 3])
    assert [(each["image"][0, 0, 0], each["label"]) for each in found] == [(1, 1), (5, 0)]
    assert not hasattr(selection.Selected(ArrayExamples(PICTURES, [0] * 8), [0]), "__getitems__")
    decoded = reading.decoded(whole, range(3), 3, np.dtype(np.uint8), pytest.fail)
    assert [label for _, label in decoded] == [1, 1, 2]
