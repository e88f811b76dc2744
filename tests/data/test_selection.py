"""Tests of the examples of a run's splits, and of their identity."""

import dataclasses

import numpy as np
import pytest

from cnn_jax import data, errors, plan
from cnn_jax.contracts import Description, Source
from cnn_jax.data import selection

AUTOMATIC = {f"data.{key}_split": "auto" for key in ("train", "validation", "test")}


def source(*splits: str, size: int = 20, first: int = 0) -> Source:
    """Returns a source of 1x1 pixels with values from `first` on, in two classes."""
    images = np.arange(first, first + size, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return data.from_arrays({split: (images, np.arange(size) % 2) for split in splits})


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train",), ("train[:80%]", "train[80%:90%]", "train[90%:]")),
        (("train", "validation"), ("train", "validation", "")),
        (("train", "test"), ("train[:90%]", "train[90%:]", "test")),
        (("train", "validation", "test"), ("train", "validation", "test")),
    ],
)
def test_automatic_splits_are_those_that_are_stored(
    splits: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    found = selection.resolve(source(*splits), plan.read(AUTOMATIC).data)
    assert (found.train_split, found.validation_split, found.test_split) == expected


def test_given_splits_stay_beside_automatic_ones() -> None:
    keys = plan.read({**AUTOMATIC, "data.test_split": "train[:1]"}).data
    found = selection.resolve(source("train", "validation"), keys)
    assert (found.train_split, found.validation_split) == ("train", "validation")
    assert found.test_split == "train[:1]"


def test_the_number_of_examples_is_that_of_the_selection() -> None:
    given = source("train", "test")
    for changes in ({}, {"data.validation_split": ""}, {"data.train_split": "train[3:7]"}):
        keys = plan.read({"data.test_split": "test[:5]", **changes}).data
        selected = selection.select(given, keys)
        assert selection.count(given, keys) == sum(map(len, selected.values()))


def test_a_stratified_split_needs_a_set_without_stored_splits() -> None:
    keys = plan.read({"data.split": "stratified"}).data
    assert set(selection.select(source("train"), keys)) == {"train", "validation", "test"}
    assert selection.count(source("train"), keys) == 20
    with pytest.raises(errors.UserError, match="this set has train, test;"):
        selection.select(source("train", "test"), keys)


def test_names_of_a_stratified_split_are_a_partition() -> None:
    keys = plan.read({"data.split": "stratified"}).data
    found = selection.names(source("train"), keys)
    everything = [name for names in found.values() for name in names]
    assert sorted(everything) == sorted(f"train, image {index}" for index in range(20))


def description(given: Source, keys: plan.Data) -> Description:
    selected = selection.select(given, keys)
    return Description(
        class_names=given.class_names,
        native_size=(1, 1),
        input_shape=(1, 1, 1),
        mean=(0.5,),
        std=(0.5,),
        sizes={name: len(examples) for name, examples in selected.items()},
        hashes={name: examples.digest() for name, examples in selected.items()},
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (source("train", "test"), ""),
        (source("train", "test", size=21), "train has 19 examples, 18 when the run began"),
        (source("train", "test", first=1), "train has other examples than when the run began"),
        (source("train", "test", size=18), "test has 18 examples, 20 when the run began"),
    ],
)
def test_a_changed_split_is_named(changed: Source, message: str) -> None:
    keys = plan.Data()
    stored = description(source("train", "test"), keys)
    found = selection.select(changed, keys)
    if not message:
        selection.check_unchanged(stored, found, changed.class_names)
        return
    with pytest.raises(errors.UserError, match=message):
        selection.check_unchanged(stored, found, changed.class_names)


def test_changed_classes_are_named() -> None:
    stored = description(source("train", "test"), plan.Data())
    found = selection.select(source("train", "test"), plan.Data())
    with pytest.raises(errors.UserError, match=r"the classes are not the run's \(owl\)"):
        selection.check_unchanged(stored, found, ("0", "1", "owl"))
    with pytest.raises(errors.UserError, match="in another order"):
        selection.check_unchanged(stored, found, ("1", "0"))


def test_descriptions_of_older_versions_are_not_compared() -> None:
    stored = description(source("train", "test"), plan.Data())
    old = dataclasses.replace(stored, sizes={}, hashes={})
    changed = source("train", "test", size=21)
    selection.check_unchanged(old, selection.select(changed, plan.Data()), changed.class_names)


def test_the_digest_covers_names_labels_and_order() -> None:
    class Named:
        """Examples without a digest of their own."""

        def __init__(self, names: str, labels: list[int]) -> None:
            self._names, self._labels = names, labels

        def __len__(self) -> int:
            return len(self._names)

        def __getitem__(self, index: int) -> dict[str, int]:
            raise NotImplementedError

        def name(self, index: int) -> str:
            return self._names[index]

        def labels(self) -> np.ndarray:
            return np.array(self._labels, np.int32)

    def digest(names: str, labels: list[int], indices: range) -> str:
        return selection.Selected(Named(names, labels), indices).digest()

    first = digest("abc", [0, 1, 0], range(2))
    assert digest("abd", [0, 1, 1], range(2)) == first
    others = {
        digest("abc", [0, 1, 0], range(3)),
        digest("adc", [0, 1, 0], range(2)),
        digest("abc", [1, 1, 0], range(2)),
        digest("bac", [1, 0, 0], range(2)),
    }
    assert len(others | {first}) == 5


@pytest.mark.parametrize("is_sorted", [True, False])
def test_slices_of_arrays_that_are_sorted_by_class_are_named(
    is_sorted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.arange(20) // 10 if is_sorted else np.arange(20) % 2
    given = data.from_arrays({"train": (np.zeros((20, 1, 1, 1), np.uint8), labels)})
    selection.select(given, selection.resolve(given, plan.read(AUTOMATIC).data))
    found = [message for message in caplog.messages if "sorted by class" in message]
    assert len(found) == 2 * is_sorted
    if is_sorted:
        assert "the split validation of the run has 1 of 2 classes" in found[0]


def test_labels_from_1_are_named(caplog: pytest.LogCaptureFixture) -> None:
    labels = 1 + np.arange(20) % 2
    arrays = np.zeros((20, 1, 1, 1), np.uint8)
    given = data.from_arrays({"train": (arrays, labels)}, ["0", "1", "2"])
    selection.select(given, selection.resolve(given, plan.read(AUTOMATIC).data))
    assert "classes without training images: 0; labels are counted from 0" in caplog.messages


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev"])
def test_a_stored_validation_split_is_used_or_named(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = source("train", name, "test")
    found = selection.resolve(given, plan.read(AUTOMATIC).data)
    assert (found.train_split, found.validation_split) == ("train", name)
    selection.select(given, found)
    assert not caplog.messages
    selection.select(given, plan.Plan().data)
    assert f"the split {name} of the data set is not used" in caplog.text
