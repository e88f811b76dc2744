"""Folders whose names would silently give other classes than the ones that a user means."""

import unicodedata
from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.data.sources import folders
from tests.data.class_folders import read, write


@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("training", "test")])
def test_training_and_testing_are_splits(tmp_path: Path, train: str, test: str) -> None:
    for split in (train, test):
        write(tmp_path / split, ("glioma/1.jpg", "notumor/2.jpg"))
    source = read(tmp_path)
    assert source.class_names == ("glioma", "notumor")
    assert source.splits.keys() == {"train", "test"}


@pytest.mark.parametrize(
    "names",
    [
        ("seg_train/seg_train", "seg_test/seg_test", "seg_pred"),
        ("train_set", "test_set"),
        ("Train-Images", "Validation-Images"),
        ("train2017", "val2017"),
    ],
)
def test_folders_named_like_splits_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / name, ("cat/1.jpg", "dog/2.jpg"))
    message = "which hold no images but folders. If they are splits, rename them to train, val"
    with pytest.raises(errors.UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("names", [("train station", "test tube"), ("trains", "tests"), ("a", "b")])
def test_classes_named_like_splits_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / name, ("1.jpg", "deeper/2.jpg"))
    assert read(tmp_path).class_names == tuple(sorted(names))


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("other", ["CAT", "Cat"])
def test_a_class_without_training_images_differs_by_more_than_case(
    tmp_path: Path, other: str
) -> None:
    write(tmp_path, ("train/cat/1.jpg", "train/dog/1.jpg", f"val/{other}/1.jpg", "val/dog/1.jpg"))
    with pytest.raises(errors.UserError, match=rf"look alike: b'cat' and b'{other}', which differ"):
        read(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_forms_of_unicode_do_not_make_two_classes(tmp_path: Path, split: str) -> None:
    write(tmp_path, (f"train/{COMPOSED}/1.jpg", "train/dog/1.jpg", "val/dog/1.jpg"))
    write(tmp_path, (f"{split}/{DECOMPOSED}/1.jpg",))
    with pytest.raises(errors.UserError, match="differ by case or by the form of Unicode"):
        read(tmp_path)


def test_letters_of_both_cases_are_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split, ("a/1.jpg", "A/1.jpg"))
    assert folders.source(tmp_path).class_names == ("A", "a")
