import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import errors, limits
from cnn_jax.data.sources import npz
from cnn_jax.runtime import files

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5, 4), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def save(path: Path, **arrays: Any) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def test_arrays_are_read_as_written(tmp_path: Path) -> None:
    names = np.array(["cat", "dog", "öwl"])
    path = save(
        tmp_path / "set.npz",
        train_images=COLOUR,
        train_labels=LABELS.astype(np.int64),
        test_images=COLOUR[:2],
        test_labels=LABELS[:2],
        class_names=names,
    )
    source = npz.source(path)
    assert source.class_names == ("cat", "dog", "öwl")
    assert list(source.splits) == ["train", "test"]
    train = source.splits["train"]
    assert train.labels().tolist() == LABELS.tolist()
    np.testing.assert_array_equal(train.images, COLOUR)
    np.testing.assert_array_equal(source.splits["test"].images, COLOUR[:2])
    assert train.name(3) == "train, image 3"


@pytest.mark.parametrize(
    ("split", "images", "labels"),
    [(split, *pair) for split, pairs in npz.PAIRS.items() for pair in pairs],
)
def test_each_pair_of_names_is_read_as_its_split(
    tmp_path: Path, split: str, images: str, labels: str
) -> None:
    path = save(tmp_path / "set.npz", **{images: GREY, labels: LABELS})
    source = npz.source(path)
    assert list(source.splits) == [split]
    assert source.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(source.splits[split].images, GREY[..., np.newaxis])


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_file_of_medmnist_is_read(tmp_path: Path, images: np.ndarray) -> None:
    column = LABELS[:, np.newaxis]
    arrays = {"train_images": images, "train_labels": column}
    arrays |= {"val_images": images[:3], "val_labels": column[:3]}
    arrays |= {"test_images": images[:1], "test_labels": column[:1]}
    source = npz.source(save(tmp_path / "pathmnist.npz", **arrays))
    sizes = {split: len(part) for split, part in source.splits.items()}
    assert sizes == {"train": 6, "validation": 3, "test": 1}
    assert source.splits["validation"].labels().tolist() == [0, 1, 2]
    assert source.splits["train"][0]["image"].shape == (5, 4, images[..., np.newaxis].shape[3])


def test_floats_and_any_channels_are_read(tmp_path: Path) -> None:
    images = RNG.random((6, 5, 4, 7))
    save(tmp_path / "set.npz", images=images, labels=LABELS)
    found = np.asarray(npz.source(tmp_path / "set.npz").splits["train"].images)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, images.astype(np.float32))


def test_a_directory_with_one_file_is_read(tmp_path: Path) -> None:
    save(tmp_path / "set.npz", images=GREY, labels=LABELS)
    (tmp_path / "._set.npz").touch()
    (tmp_path / "readme.txt").touch()
    assert len(npz.source(str(tmp_path)).splits["train"]) == 6


def test_a_directory_with_several_files_or_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"has 0 \.npz files; set data\.directory to one"):
        npz.source(str(tmp_path))
    for name in ("b", "a"):
        save(tmp_path / name, images=GREY, labels=LABELS)
    with pytest.raises(errors.UserError, match=r"has 2 \.npz files \(a\.npz, b\.npz\); set data"):
        npz.source(str(tmp_path))
    with pytest.raises(errors.UserError, match=r"no\.npz' is neither a file nor a directory"):
        npz.source(str(tmp_path / "no.npz"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "there are no images. The file has the arrays none; allowed are train_images with"),
        ({"class_names": np.array(["a"])}, "there are no images"),
        (
            {"images": GREY, "labels": LABELS, "ids": LABELS},
            "'ids' is not a known name. The file has the arrays images, labels, ids; allowed are",
        ),
        ({"images": GREY, "labels": LABELS, "tets_images": GREY}, "'tets_images' is not a known"),
        ({"x_train": GREY, "labels": LABELS}, "'y_train' is missing. The file has the arrays x_t"),
        ({"y_test": LABELS}, "'x_test' is missing"),
        (
            {"images": GREY, "labels": LABELS, "x_train": GREY, "y_train": LABELS},
            "'x_train' and 'images' are both images of the split 'train'",
        ),
        ({"images": GREY / 2, "labels": LABELS}, "each image of split 'train' has the value 12"),
        ({"images": GREY[0], "labels": LABELS}, "must have shape [height, width] or [height, wid"),
        ({"images": np.stack([GREY] * 17, -1), "labels": LABELS}, "16 channels, got [5, 4, 17]"),
        ({"images": GREY, "labels": LABELS[:5]}, "split 'train' has 6 images, but 5 labels"),
        ({"images": GREY, "labels": np.eye(6, dtype=int)}, "must have shape [N], got [6, 6]"),
        ({"images": GREY, "labels": LABELS / 2}, "must be integers, got dtype float64"),
        ({"images": GREY, "labels": LABELS, "class_names": np.array(["a"])}, "must be from 0 to 0"),
        (
            {"images": GREY, "labels": LABELS, "class_names": np.arange(3)},
            "must be a list of texts",
        ),
        (
            {"images": GREY, "labels": LABELS, "class_names": np.array("a")},
            "got shape [] and dtype",
        ),
        (
            {"images": GREY, "labels": LABELS, "class_names": np.array(["a", "b", "c"], object)},
            "the array 'class_names' cannot be read (Object arrays cannot be loaded",
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_problem(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = save(tmp_path / "set.npz", **arrays)
    with pytest.raises(errors.UserError, match=re.escape(message)) as raised:
        npz.source(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert str(raised.value).count(path) == 1


def flipped(content: bytes) -> bytes:
    """Returns the content of a file with one wrong bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-30], "the file cannot be read (File is not a zip file)"),
        (flipped, "the array 'images' cannot be read"),
        (lambda _: b"", "this is not an .npz file: it begins with b''"),
        (lambda _: b"images, labels", "this is not an .npz file: it begins with b'images, '"),
        (lambda _: b"\x93NUMPY\x01\x00", "this is an .npy file, which has one array"),
    ],
    ids=["truncated", "one bit", "empty", "text", "npy"],
)
def test_a_damaged_file_is_an_error(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "set.npz"
    save(path, images=np.tile(COLOUR, (50, 1, 1, 1)), labels=np.tile(LABELS, 50))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(errors.UserError, match=re.escape(f"{path}: {message}")):
        npz.source(str(path))


def test_another_zip_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pictures/1.png", "no picture")
    with pytest.raises(errors.UserError, match=r"'pictures/1\.png' is not a known name"):
        npz.source(str(path))


def test_a_file_without_permission_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "set.npz", images=GREY, labels=LABELS)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", path)  # The tests may run as root.

    monkeypatch.setattr(files, "open_regular", refuse)
    with pytest.raises(errors.UserError, match=r"set\.npz cannot be read: .*Permission denied"):
        npz.source(path)


def test_too_large_arrays_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "set.npz", images=GREY, labels=LABELS)
    monkeypatch.setattr(limits, "MAX_SET_BYTES", 300)
    size = GREY.nbytes + LABELS.nbytes + 2 * 128  # NumPy's headers have 128 bytes.
    message = rf"set\.npz: its arrays have {size} bytes, more than the limit of 300$"
    with pytest.raises(errors.UserError, match=message):
        npz.source(path)


def test_labels_of_too_many_classes_are_refused(tmp_path: Path) -> None:
    labels = LABELS.astype(np.int64)
    labels[-1] = 2**63 - 1
    path = save(tmp_path / "set.npz", images=GREY, labels=labels)
    with pytest.raises(errors.UserError, match=r"label 9,223,372,036,854,775,807; .* 1,000,000 cl"):
        npz.source(path)


def test_a_directory_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set.npz").mkdir()
    with pytest.raises(errors.UserError, match=r"set\.npz cannot be read: Is a directory"):
        npz.source(tmp_path)
