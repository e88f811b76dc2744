import gzip
import os
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import errors
from cnn_jax.data.moments import Moments
from cnn_jax.data.sources import idx
from cnn_jax.data.sources.arrays import ArraySource

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (5, 4, 3), np.uint8), "t10k": np.zeros((2, 4, 3), np.uint8)}
LABELS = {"train": np.array([2, 0, 1, 9, 9], np.uint8), "t10k": np.array([3, 4], np.uint8)}
FASHION_MNIST = idx.USUAL_PLACES["fashion_mnist"]


def encoded(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def write(root: Path, separator: str = "-", suffix: str = "") -> None:
    for prefix in ("train", "t10k"):
        for kind, array in (("images", IMAGES[prefix]), ("labels", LABELS[prefix])):
            content = encoded(array)
            name = f"{prefix}-{kind}{separator}idx{array.ndim}-ubyte{suffix}"
            (root / name).write_bytes(gzip.compress(content) if suffix else content)


def sizes(source: ArraySource) -> dict[str, int]:
    return {split: len(examples) for split, examples in source.splits.items()}


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_and_labels_are_read_as_written(tmp_path: Path, separator: str, suffix: str) -> None:
    write(tmp_path, separator, suffix)
    source = idx.source("", str(tmp_path))
    assert sizes(source) == {"train": 5, "test": 2}
    examples = source.splits["train"]
    assert [example["label"] for example in map(examples.__getitem__, range(1, 4))] == [0, 1, 9]
    for index, image in enumerate(IMAGES["train"]):
        np.testing.assert_array_equal(examples[index]["image"], image[..., np.newaxis])
    assert examples.labels().tolist() == [2, 0, 1, 9, 9]
    assert examples.labels().dtype == np.int32
    assert source.splits["test"].labels().tolist() == [3, 4]


def test_classes_are_named_if_the_set_is_and_numbered_if_not(tmp_path: Path) -> None:
    write(tmp_path)
    assert idx.source("fashion_mnist", str(tmp_path)).class_names[9] == "Ankle boot"
    assert idx.source("", str(tmp_path)).class_names == tuple("0123456789")


def test_a_set_without_images_is_read_as_empty(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(encoded(np.zeros((0, 4, 3), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(encoded(np.zeros(0, np.uint8)))
    assert sizes(idx.source("", str(tmp_path))) == {"train": 5, "test": 0}


WHOLE = encoded(IMAGES["train"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-1], "truncated: it has 75 bytes, but 76 by its header"),
        (WHOLE[:10], "truncated: it has 10 bytes, but its header alone should have 16"),
        (WHOLE + b"\0", "too long: it has more bytes than the 76 of its header"),
        (WHOLE[:2] + b"\x0d" + WHOLE[3:], "values of type 0x0d; only unsigned bytes"),
        (b"\x89PNG\r\n\x1a\n", "not an idx file"),
        (b"", "not an idx file"),
        (encoded(LABELS["train"]), "should have 3 dimensions, but has 1"),
        (
            encoded(IMAGES["train"][:4]),
            "has 4 images, but .*train-labels-idx1-ubyte.* has 5 labels",
        ),
    ],
    ids=["cut", "header", "long", "type", "other", "empty", "rank", "count"],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bad_file_is_named_with_its_defect(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    write(tmp_path, suffix=suffix)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(errors.UserError, match=f"{re.escape(str(path))} .*{message}"):
        idx.source("", str(tmp_path))


PACKED = gzip.compress(encoded(LABELS["t10k"]))


@pytest.mark.parametrize(
    "content",
    [PACKED[:-1], PACKED[:20], WHOLE, b"\x1f\x8b\x08" + b"\xff" * 50],
    ids=["end", "middle", "not gzip", "garbage"],
)
def test_incomplete_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, suffix=".gz")
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(
        errors.UserError, match=f"{re.escape(str(path))} is not a complete gzip file"
    ):
        idx.source("", str(tmp_path))


def announced(*shape: int) -> bytes:
    """The header of an idx file of these dimensions."""
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (announced(*[1] * 65) + b"\0", "has 65 dimensions; files with 1 to 32 are read"),
        (announced(*[1] * 255), "has 255 dimensions"),
        (announced(), "has 0 dimensions"),
        (announced(2**20, 2**15), "has 34,359,738,368 values by its header, more than the limit"),
        (announced(60_000, 28, 28), "truncated: it has 16 bytes, but 47040016 by its header"),
    ],
    ids=["65", "255", "0", "limit", "short"],
)
def test_a_hostile_header_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=message):
        idx.read_file(path)


def test_no_more_of_a_gzip_file_is_unpacked_than_its_header_announces(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(announced(10))
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(errors.UserError, match="is too long: it has more bytes than the 18 of its"):
        idx.read_file(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_images_without_pixels_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(announced(5, 0, 0))
    with pytest.raises(errors.UserError, match=r"each image of split 'train' .* got \[0, 0, 1\]"):
        idx.source("", tmp_path)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(errors.UserError, match="ubyte cannot be read: it is no regular file"):
        idx.source("", tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(errors.UserError, match="ubyte cannot be read: Is a directory"):
        idx.source("", tmp_path)


def test_missing_file_is_named_with_the_accepted_names(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(errors.UserError) as error:
        idx.source("", str(tmp_path))
    assert f"no t10k labels in {tmp_path}" in str(error.value)
    assert "t10k-labels-idx1-ubyte.gz" in str(error.value)


def test_label_beyond_the_named_classes_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    labels = np.array([0, 1, 2, 3, 10], np.uint8)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encoded(labels))
    with pytest.raises(errors.UserError, match=re.escape(str(tmp_path))) as error:
        idx.source("mnist", str(tmp_path))
    assert "label 10, but 'mnist' has only 10 classes" in str(error.value)


def test_unknown_name_is_an_error_with_the_known_names(tmp_path: Path) -> None:
    write(tmp_path)
    for function in (idx.source, idx.check):
        with pytest.raises(errors.UserError, match="'fashionmnist'; did you mean 'fashion_mnist'"):
            function("fashionmnist", str(tmp_path))


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match="nowhere' is not a directory"):
        idx.source("mnist", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["", "mnist"])
def test_data_set_without_a_usual_place_needs_a_directory(name: str) -> None:
    for function in (idx.source, idx.check):
        with pytest.raises(errors.UserError, match=r"data\.directory must name the directory"):
            function(name, "")


def test_check_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "USUAL_PLACES", {"fashion_mnist": tmp_path / "missing"})
    idx.check("mnist", str(tmp_path / "missing"))
    idx.check("fashion_mnist", "")


def test_the_error_for_an_absent_package_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "USUAL_PLACES", {"fashion_mnist": tmp_path / "fashion-mnist"})
    with pytest.raises(errors.UserError, match="apt-get install dataset-fashion-mnist"):
        idx.source("fashion_mnist", "")


@pytest.mark.skipif(
    not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_installed_fashion_mnist_is_found_and_complete() -> None:
    source = idx.source("fashion_mnist", "")
    assert sizes(source) == {"train": 60000, "test": 10000}
    for split, each in (("train", 6000), ("test", 1000)):
        examples = source.splits[split]
        assert np.shape(examples.images) == (10 * each, 28, 28, 1)
        assert np.bincount(examples.labels()).tolist() == [each] * 10
    sums = Moments(channels=1)
    for image in source.splits["train"].images:
        sums.add(image)
    mean, std = sums.mean_and_std()
    assert mean == pytest.approx([0.2860], abs=5e-5)
    assert std == pytest.approx([0.3530], abs=5e-5)
    assert source.class_names[source.splits["train"][0]["label"]] == "Ankle boot"
