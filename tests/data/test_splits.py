import re
from types import SimpleNamespace

import pytest
from tensorflow_datasets.core.splits import ReadInstruction

from cnn_jax import errors
from cnn_jax.data import splits


@pytest.mark.parametrize(
    ("split", "start", "stop"),
    [
        ("train", 0, 60000),
        ("train[:]", 0, 60000),
        ("train[:90%]", 0, 54000),
        ("train[90%:]", 54000, 60000),
        ("train[10%:-5%]", 6000, 57000),
        ("train[-10%:]", 54000, 60000),
        ("train[:55000]", 0, 55000),
        ("train[55000:]", 55000, 60000),
        ("train[-100:]", 59900, 60000),
        ("train[100:-100]", 100, 59900),
        ("train[7:8]", 7, 8),
        ("train[:70000]", 0, 60000),
        ("train[-70000:10]", 0, 10),
        ("train[:200%]", 0, 60000),
    ],
)
def test_slice_selects_a_range(split: str, start: int, stop: int) -> None:
    assert splits.resolve(split, {"train": 60000, "test": 10000}) == ("train", start, stop)


def test_each_split_has_its_own_size() -> None:
    assert splits.resolve("test[50%:]", {"train": 60000, "test": 10000}) == ("test", 5000, 10000)


@pytest.mark.parametrize("size", [100, 101, 1437, 60000, 1281167])
def test_percentages_are_rounded_as_tfds_rounds_them(size: int) -> None:
    for percent in range(1, 100):
        for split in (f"train[:{percent}%]", f"train[{percent}%:]", f"train[-{percent}%:]"):
            (theirs,) = ReadInstruction.from_spec(split).to_absolute(
                {"train": SimpleNamespace(num_examples=size)}
            )
            start = theirs.from_ or 0
            stop = size if theirs.to is None else theirs.to
            assert splits.resolve(split, {"train": size}) == ("train", start, stop)


@pytest.mark.parametrize("percent", [1, 33, 50, 90, 99])
def test_complementary_slices_partition_a_set_of_any_size(percent: int) -> None:
    for size in range(100, 2000):
        _, first, middle = splits.resolve(f"train[:{percent}%]", {"train": size})
        _, resumed, last = splits.resolve(f"train[{percent}%:]", {"train": size})
        assert (first, resumed, last) == (0, middle, size)


def test_an_unknown_split_is_named_with_its_nearest() -> None:
    with pytest.raises(errors.UserError, match="unknown split 'tset'; did you mean 'test'"):
        splits.resolve("tset[:90%]", {"train": 10, "test": 10})


@pytest.mark.parametrize(
    "split",
    ["", "train[", "train[]", "train[5]", "train[:5.5%]", "train[a:]", "train[::2]", "[:5]"],
)
def test_unreadable_split_is_quoted(split: str) -> None:
    assert not splits.is_readable(split)
    with pytest.raises(errors.UserError, match=re.escape(f"cannot read split {split!r}")):
        splits.resolve(split, {"train": 10})


@pytest.mark.parametrize("split", ["train", "train[:]", "train[:90%]", "a-b[-5%:-1]"])
def test_readable_split(split: str) -> None:
    assert splits.is_readable(split)


@pytest.mark.parametrize(
    "split", ["train[5:5]", "train[6:5]", "train[10:]", "train[:0]", "train[:1%]", "train[:-100%]"]
)
def test_a_slice_without_examples_is_an_error(split: str) -> None:
    with pytest.raises(errors.UserError, match=re.escape(f"{split!r} holds no example")):
        splits.resolve(split, {"train": 10})
