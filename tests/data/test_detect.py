import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.data.sources import detect


def write(root: Path, names: Iterable[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["shards.json", "train-00000-of-00001.array_record"], "shards"),
        (["shards.json", "a/1.jpg", "b/1.jpg"], "shards"),
        (["set.npz"], "npz"),
        (["set.NPZ", "README", ".hidden/1.jpg", "labels.txt"], "npz"),
        (["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], "idx"),
        (["train-images-idx3-ubyte.gz"], "idx"),
        (["train-images.idx3-ubyte"], "idx"),
        (["train-images.idx3-ubyte.gz", "samples/1.png"], "idx"),
        (["mnist/3.0.1/dataset_info.json"], "tfds"),
        (["a/1.jpg", "imagenet_v2/matched-frequency/3.0.0/dataset_info.json"], "tfds"),
        (["mnist/3.0.1/features.json"], "folder"),
        (["mnist/latest/dataset_info.json"], "folder"),
        (["cat/1.jpg", "dog/1.jpg"], "folder"),
        (["train/cat/1.jpg", "val/cat/1.jpg"], "folder"),
        (["Data/CLS-LOC/train/n01440764/1.JPEG"], "folder"),
        (["1.jpg", "2.jpg", "readme.txt"], "folder"),  # The source explains the layout.
    ],
)
@pytest.mark.parametrize("name", ["", "mnist"])
def test_content_decides(tmp_path: Path, files: list[str], expected: str, name: str) -> None:
    write(tmp_path, files)
    assert detect.detect(str(tmp_path), name) == expected


def test_npz_file_is_found_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, ["one.npz", "two.npz"])
    assert detect.detect(str(tmp_path / "two.npz")) == "npz"


def test_name_without_directory_is_a_data_set_of_tfds() -> None:
    assert detect.detect("", "mnist") == "tfds"


def test_downloads_by_hand_are_prepared_by_tfds(tmp_path: Path) -> None:
    write(tmp_path, ["downloads/manual/ILSVRC2012_img_train.tar"])
    assert detect.detect(str(tmp_path), "imagenet2012:5.1.0") == "tfds"
    assert detect.detect(str(tmp_path)) == "folder"


def test_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, ["pictures/cat/1.jpg"])
    assert detect.detect("~/pictures") == "folder"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no data set: no folder, no image and these files: none. data.directory can be"),
        (["b.txt", "a.csv"], "these files: a.csv, b.txt. data.directory can be a folder of images"),
        (["one.npz", "two.npz"], "several .npz files: one.npz, two.npz. Set data.directory to one"),
        (["set.npz", "cat/1.jpg"], "holds set.npz beside 1 folders and 0 images. Set"),
        (["set.npz", "1.jpg"], "Set data.directory to the .npz file, or data.source to folder"),
        (["dataset_info.json", "features.json"], "Set data.directory to the data_dir that holds"),
        (["ILSVRC2012_img_train.tar"], "with 'python -m cnn_jax.data.pack "),
    ],
)
def test_directory_without_a_data_set_is_an_error(
    tmp_path: Path, files: list[str], message: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(errors.UserError, match=re.escape(message)) as error:
        detect.detect(str(tmp_path))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["", "mnist"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "nowhere cannot be listed: No such file or directory. To let TFDS prepare"),
        ("set.npz", "set.npz cannot be listed: No such file or directory"),
        ("a.txt", "a.txt cannot be listed: Not a directory"),
    ],
)
def test_wrong_place_is_an_error(tmp_path: Path, place: str, message: str, name: str) -> None:
    write(tmp_path, ["a.txt"])
    with pytest.raises(errors.UserError, match=re.escape(message)) as error:
        detect.detect(str(tmp_path / place), name)
    assert "shards.json" in str(error.value)


def test_neither_directory_nor_name_is_an_error() -> None:
    with pytest.raises(errors.UserError, match=r"data\.directory is empty, but"):
        detect.detect("")


def test_folders_of_classes_are_not_listed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [f"{label}/{number}/1.jpg" for label in "ab" for number in range(100)])
    scandir, listed = os.scandir, []

    def counted(path: str | bytes | os.PathLike[str]) -> object:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    assert detect.detect(str(tmp_path)) == "folder"
    assert len(listed) <= 1 + 2 * (1 + 16)
