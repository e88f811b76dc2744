"""Folders of images: classes, splits, ignored files, links, and layouts that are refused."""

import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import contracts, errors
from cnn_jax.data import images
from cnn_jax.data.sources import folders
from tests import imagenet_shaped
from tests.data.class_folders import ANIMALS, hashed, names, read, write

OPEN_CLIP_ART = Path("/usr/share/openclipart/png")


@pytest.fixture(autouse=True)
def warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def test_folders_of_classes_are_the_split_train(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ANIMALS)
    source = read(tmp_path)
    assert source.class_names == ("cat", "dog", "fox")
    assert set(source.splits) == {"train"}
    examples = source.splits["train"]
    assert isinstance(examples, contracts.Examples)
    assert names(examples) == hashed(ANIMALS)
    for index, name in enumerate(names(examples)):
        label = source.class_names.index(name.split("/")[0])
        assert examples[index] == {"image": name.encode(), "label": label}
        assert type(examples[index]["label"]) is int
    assert examples.labels().dtype == np.int32
    assert examples.labels().tolist() == [examples[index]["label"] for index in range(5)]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "validation", "test"), ("Train", "VAL", "Test"), ("TRAIN", "valid", "test")],
)
def test_stored_splits_have_their_usual_names(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    parts = {"train": train, "validation": validation, "test": test}
    for number, folder in enumerate(parts.values()):
        write(tmp_path / folder, [f"{name}/{number}.jpg" for name in "ba"])
    source = read(tmp_path)
    assert source.class_names == ("a", "b")
    assert list(source.splits) == ["train", "validation", "test"]
    for number, split in enumerate(parts):
        examples = source.splits[split]
        assert names(examples) == hashed([f"a/{number}.jpg", f"b/{number}.jpg"])
        assert examples[0]["image"] == examples.name(0).encode()


@pytest.mark.parametrize("inner", ["Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_is_found_below_kaggles_folders(
    tmp_path: Path, inner: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ["LOC_synset_mapping.txt"])
    write(tmp_path / inner, ["train/a/1.JPEG", "train/b/1.JPEG", "val/a/2.JPEG", "test/3.JPEG"])
    source = read(tmp_path)
    assert {split: names(part) for split, part in source.splits.items()} == {
        "train": hashed(["a/1.JPEG", "b/1.JPEG"]),
        "validation": ["a/2.JPEG"],
    }
    place = tmp_path / inner
    assert caplog.messages == [
        f"{place}: ignored images outside class folders: 1; the first is test/3.JPEG",
        f"{place}: no images in class folders of test",
    ]


def test_hidden_files_and_folders_are_no_images_and_no_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ANIMALS)
    hidden = (".ipynb_checkpoints", "__MACOSX", "lost+found", "@eaDir", ".git/a")
    for folder in ("", "cat/"):
        write(tmp_path, [f"{folder}{name}/1.jpg" for name in hidden])
    write(tmp_path, [".DS_Store", "cat/._1.jpg", "cat/.hidden.jpg"])
    source = read(tmp_path)
    assert source.class_names == ("cat", "dog", "fox")
    assert names(source.splits["train"]) == hashed(ANIMALS)
    assert not caplog.messages


def test_ignored_files_are_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "train", ANIMALS)
    write(tmp_path / "train", ["cat/notes.txt", "cat/b/Thumbs.db", "cat/jpg", "9.jpg", "10.jpg"])
    write(tmp_path, ["README", "val/cat/a.HEIC", "val/cat/b.jpg", "old/cat/1.jpg", "raw/x.npy"])
    (tmp_path / "val/dog").mkdir()
    (tmp_path / "train/horse").mkdir()
    (tmp_path / "train/cow/calves").mkdir(parents=True)
    source = read(tmp_path)
    assert source.class_names == ("cat", "dog", "fox")
    listed = ", ".join(sorted(images.EXTENSIONS))
    assert caplog.messages == [
        f"{tmp_path}: ignored files whose names do not end in {listed}: 5; the first is README",
        f"{tmp_path}: ignored images outside class folders: 2; the first is train/10.jpg",
        f"{tmp_path}: ignored folders beside those of the splits: 2; the first is old",
        f"{tmp_path}: ignored class folders without images: cow, horse",
    ]


def test_class_of_the_validation_set_alone_is_a_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ["train/b/1.jpg", "train/c/1.jpg", "val/a/1.jpg", "val/c/1.jpg"])
    source = read(tmp_path)
    assert source.class_names == ("a", "b", "c")
    labels = {name: part.labels().tolist() for name, part in source.splits.items()}
    assert {name: sorted(values) for name, values in labels.items()} == {
        "train": [1, 2],
        "validation": [0, 2],
    }
    assert caplog.messages == [f"{tmp_path}: classes without training images: a"]


def test_validation_set_without_a_training_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ["val/a/1.jpg", "val/b/1.jpg"])
    assert set(read(tmp_path).splits) == {"validation"}
    assert not caplog.messages


def test_long_lists_of_names_are_shortened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ANIMALS)
    for number in range(12):
        (tmp_path / f"empty{number:02}").mkdir()
    read(tmp_path)
    (message,) = caplog.messages
    assert message.endswith("empty08, empty09 and 2 more")


def test_links_to_files_and_folders_are_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "store", ["cats/1.jpg", "cats/kittens/2.jpg", "3.jpg"])
    write(tmp_path / "set", ["dog/4.jpg"])
    root = tmp_path / "set"
    (root / "cat").symlink_to(tmp_path / "store/cats")
    (root / "dog/3.jpg").symlink_to("../../store/3.jpg")
    (root / "dog/puppies").symlink_to(tmp_path / "store/cats/kittens")
    examples = read(root).splits["train"]
    expected = ["cat/1.jpg", "cat/kittens/2.jpg", "dog/4.jpg", "dog/3.jpg", "dog/puppies/2.jpg"]
    assert names(examples) == hashed(expected)
    contents = {examples.name(index): examples[index]["image"] for index in range(5)}
    assert contents["dog/3.jpg"] == b"3.jpg"
    assert contents["dog/puppies/2.jpg"] == b"cats/kittens/2.jpg"
    assert not caplog.messages


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/", "../dog"])
def test_loops_of_links_end(tmp_path: Path, target: str, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, ["set/cat/1.jpg", "set/dog/1.jpg"])
    (tmp_path / "set/cat/link").symlink_to(target, target_is_directory=True)
    (tmp_path / "set/dog/link").symlink_to("../cat", target_is_directory=True)
    found = names(read(tmp_path / "set").splits["train"])
    loops = [message for message in caplog.messages if "links to a folder above" in message]
    if target == "../dog":
        assert set(found) >= {"cat/1.jpg", "cat/link/1.jpg", "dog/1.jpg", "dog/link/1.jpg"}
        assert "ignored links to a folder above themselves: 2;" in loops[0]
    else:
        assert sorted(found) == ["cat/1.jpg", "dog/1.jpg", "dog/link/1.jpg"]
        assert "the first is cat/link" in loops[0]


def test_a_pipe_and_a_folder_named_like_images_are_not_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ["cat/1.jpg", "dog/1.jpg", "dog/more.png/2.jpg"])
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    assert names(read(tmp_path).splits["train"]) == hashed(
        ["cat/1.jpg", "dog/1.jpg", "dog/more.png/2.jpg"]
    )
    assert caplog.messages[0].endswith(": 1; the first is cat/pipe.jpg")


def test_synsets_are_named_in_english(tmp_path: Path) -> None:
    write(tmp_path, ["n03126707/1.JPEG", "n02012849/1.JPEG", "n01440764/1.JPEG"])
    source = read(tmp_path)
    assert source.class_names == ("tench", "crane (bird)", "crane (machine)")
    examples = source.splits["train"]
    assert examples.labels().tolist() == [
        ["n01440764", "n02012849", "n03126707"].index(name.split("/")[0])
        for name in names(examples)
    ]
    write(tmp_path, ["my own/1.jpg"])
    assert read(tmp_path).class_names == ("my own", "n01440764", "n02012849", "n03126707")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no image in a class folder. It holds nothing visible. Expected: DIR/train/"),
        (["1.jpg", "2.jpg", "a.txt"], "It holds images outside class folders: 2; other files: 1."),
        (["a/x.txt", "b/y"], "It holds class folders without images (a, b): 2; other files: 2."),
        (["train/a/x.txt"], "It holds class folders without images (a): 1; other files: 1."),
        (["pictures/train/a/1.jpg"], "only one class, 'pictures', but two are needed at least"),
        (["train/1.jpg", "train/2.jpg"], "train holds images (2, such as 1.jpg), but none in"),
        (["train/a/1.jpg", "val/v1.JPEG"], "val holds images (1, such as v1.JPEG), but none in"),
        (["train/a/1.jpg", "val/v1.JPEG", "val/labels/a.xml"], "python -m cnn_jax.data.pack"),
        (["bus/1.jpg", "car/1.jpg", "train/1.jpg"], "If 'train' is a class and not a split, move"),
        (["val/a/1.jpg", "valid/b/1.jpg"], "several folders of the split 'validation': val, valid"),
    ],
)
def test_wrong_layout_is_an_error(tmp_path: Path, files: list[str], message: str) -> None:
    write(tmp_path, files)
    with pytest.raises(errors.UserError, match=re.escape(message)) as error:
        read(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("directory", "reason"),
    [("nowhere", "No such file or directory"), ("file.jpg", "Not a directory")],
)
def test_wrong_directory_is_an_error(tmp_path: Path, directory: str, reason: str) -> None:
    write(tmp_path, ["file.jpg"])
    message = f"{tmp_path / directory} cannot be listed: {reason}; data.directory must be"
    with pytest.raises(errors.UserError, match=re.escape(message)) as error:
        read(tmp_path / directory)
    assert "DIR/train/CLASS/..." in str(error.value)


def test_empty_directory_argument_is_an_error() -> None:
    with pytest.raises(errors.UserError, match=r"data\.directory must name the directory DIR"):
        folders.source("")


def test_imagenet_shaped_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    imagenet_shaped.make(tmp_path)
    source = read(tmp_path)
    assert source.class_names[0] == "tench"
    assert len(source.class_names) == 4
    sizes = {split: np.bincount(part.labels()).tolist() for split, part in source.splits.items()}
    assert sizes == {"train": [16] * 4, "validation": [4] * 4}
    contents = [source.splits["train"][index]["image"] for index in range(64)]
    assert sum(content.startswith(b"\x89PNG") for content in contents) == 1
    assert sum(content.startswith(b"\xff\xd8") for content in contents) == 63
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.JPEG")) < 3e6
    assert not caplog.messages
    imagenet_shaped.make(tmp_path / "again")
    again = read(tmp_path / "again").splits["train"]
    assert [again[index]["image"] for index in range(64)] == contents


@pytest.mark.skipif(not OPEN_CLIP_ART.is_dir(), reason="needs Debian's package openclipart-png")
def test_open_clip_art_is_complete(caplog: pytest.LogCaptureFixture) -> None:
    source = read(OPEN_CLIP_ART)
    examples = source.splits["train"]
    assert (len(examples), len(source.class_names)) == (8121, 22)
    files = [path for path in OPEN_CLIP_ART.rglob("*.png") if not path.is_dir()]
    assert sorted(names(examples)) == sorted(str(f.relative_to(OPEN_CLIP_ART)) for f in files)
    assert not caplog.messages


def test_the_layout_of_tiny_imagenet_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ("train/n01/images/1.jpg", "train/n02/images/1.jpg", "test/images/1.jpg"))
    assert set(read(tmp_path).splits) == {"train"}
    assert "test: its class folders images have no training images" in caplog.text
    write(tmp_path, ("val/images/1.jpg",))
    message = "val holds the class folders images, none of which has training images"
    with pytest.raises(errors.UserError, match=message):
        read(tmp_path)
