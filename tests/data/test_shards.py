import dataclasses
import json
import multiprocessing
import operator
import os
import pickle
import re
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax import contracts, errors
from cnn_jax.data.pack import writer
from cnn_jax.data.sources import shards
from cnn_jax.data.sources.arrays import from_arrays

SHARD = "train-00001-of-00003.array_record"


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Examples whose images are bytes; the shards do not look into them."""

    images: list[bytes]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": index % 2}

    def name(self, index: int) -> str:
        return f"{index % 2}/größe {index}.jpg"

    def labels(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int32) % 2


@dataclasses.dataclass(frozen=True)
class EncodedSource:
    class_names: tuple[str, ...]
    splits: dict[str, Encoded]


TRAIN = Encoded([bytes([number]) * (1000 * number) for number in range(20)])
TEST = Encoded([b"first", b"", b"third"])


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A directory of 20 training images in 3 shards and 3 test images."""
    out = tmp_path / "packed"
    source = EncodedSource(("even", "odd"), {"train": TRAIN, "test": TEST})
    writer.pack(source, out, shards=3, progress=False)
    return out


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.one_of(st.text(), st.binary().map(os.fsdecode)),
    st.binary(),
)
def test_a_record_gives_back_label_name_and_image(label: int, name: str, image: bytes) -> None:
    try:
        record = shards.encode(label, name, image)
    except UnicodeEncodeError:  # Surrogates that are no bytes of a file name.
        return
    assert shards.decode(record) == (label, name, image)


def test_examples_are_those_that_were_packed(packed: Path) -> None:
    source = shards.source(str(packed))
    assert isinstance(source.splits["train"], contracts.Examples)
    assert source.class_names == ("even", "odd")
    assert list(source.splits) == ["train", "test"]
    for split, expected in (("train", TRAIN), ("test", TEST)):
        examples = source.splits[split]
        assert len(examples) == len(expected)
        for index in np.random.default_rng(0).permutation(len(expected)):
            assert examples[index] == expected[index]
            assert examples.name(index) == expected.name(index)
        assert examples.labels().dtype == np.int32
        np.testing.assert_array_equal(examples.labels(), expected.labels())


def test_numbers_out_of_range_are_refused(packed: Path) -> None:
    examples = shards.source(str(packed)).splits["train"]
    assert examples[-1] == TRAIN[19]
    for index in (20, -21):
        with pytest.raises(IndexError):
            examples[index]


def test_an_empty_split_is_read(tmp_path: Path) -> None:
    source = EncodedSource(("even", "odd"), {"train": TEST, "test": Encoded([])})
    writer.pack(source, tmp_path / "out", shards=2, progress=False)
    examples = shards.source(str(tmp_path / "out")).splits["test"]
    assert (len(examples), examples.labels().tolist()) == (0, [])
    with pytest.raises(IndexError):
        examples[0]


def test_a_pickle_is_small_opens_no_file_and_is_read_in_another_process(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packed.parent)
    examples = shards.source("packed").splits["train"]
    monkeypatch.chdir("/")  # The path in the pickle is absolute.
    assert examples[5] == TRAIN[5]
    assert len(pickle.dumps(examples)) < 2000
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, context) as pool:
        assert pool.submit(operator.getitem, examples, 19).result() == TRAIN[19]
    assert pickle.loads(pickle.dumps(examples))[7] == TRAIN[7]


def test_threads_may_share_examples(packed: Path) -> None:
    examples = shards.source(str(packed)).splits["train"]
    with futures.ThreadPoolExecutor(8) as pool:
        for index, example in enumerate(pool.map(examples.__getitem__, [*range(20)] * 20)):
            assert example == TRAIN[index % 20]


def test_the_digest_follows_the_content_and_the_order(tmp_path: Path, packed: Path) -> None:
    def digest(name: str, images: list[bytes]) -> str:
        source = EncodedSource(("even", "odd"), {"train": Encoded(images)})
        writer.pack(source, tmp_path / name, shards=3, progress=False)
        return shards.source(str(tmp_path / name)).splits["train"].digest()

    expected = shards.source(str(packed)).splits["train"].digest()
    assert digest("again", TRAIN.images) == expected
    changed = [*TRAIN.images[:19], bytes(19_000)]
    assert digest("changed", changed) != expected
    assert digest("reversed", TRAIN.images[::-1]) != expected


def test_arrays_become_pngs(tmp_path: Path) -> None:
    from cnn_jax.data import images

    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
    writer.pack(from_arrays({"train": (pixels, [0, 1, 1, 0])}), tmp_path / "out", progress=False)
    examples = shards.source(str(tmp_path / "out")).splits["train"]
    for index, expected in enumerate(pixels):
        found = images.decode(examples[index]["image"], 3, "test")
        np.testing.assert_array_equal(found, expected)
    assert examples.name(2) == "train, image 2"


def test_a_damaged_record_is_an_unreadable_image_and_the_others_are_read(packed: Path) -> None:
    path = packed / SHARD
    content = bytearray(path.read_bytes())
    place = content.index(bytes([10]) * 1000)  # Example 10 is record 4 of the second shard.
    content[place + 500] ^= 1
    path.write_bytes(content)
    examples = shards.source(str(packed)).splits["train"]
    message = f"{re.escape(str(path))}, record 4 is damaged: .*hash mismatch"
    with pytest.raises(errors.UnreadableImageError, match=message):
        examples[10]
    assert examples.name(10) == f"{path}, record 4"
    for index in (9, 11, 19):
        assert examples[index] == TRAIN[index]


def test_a_shard_with_another_number_of_records_is_named(packed: Path) -> None:
    first = packed / "train-00000-of-00003.array_record"
    values = json.loads((packed / shards.MANIFEST).read_text())
    values["splits"]["train"]["shards"][1]["bytes"] = first.stat().st_size
    (packed / shards.MANIFEST).write_text(json.dumps(values))
    (packed / SHARD).write_bytes(first.read_bytes())
    examples = shards.source(str(packed)).splits["train"]
    with pytest.raises(errors.UserError, match=f"{SHARD} is damaged: it has 6 records, but 7"):
        examples[10]


def test_a_shard_that_vanishes_is_named(packed: Path) -> None:
    examples = shards.source(str(packed)).splits["train"]
    (packed / SHARD).unlink()
    with pytest.raises(errors.UserError, match=f"cannot read the shard .*{SHARD}"):
        examples[10]
    assert examples[0] == TRAIN[0]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("name", [SHARD, "train-labels.npy"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"cannot be read \(No such file or directory\), but shards.json lists it"),
        (truncate, r"is damaged: it has \d+ bytes, but \d+ by shards.json"),
    ],
)
def test_missing_and_truncated_files_are_named_at_once(
    packed: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(packed / name)
    with pytest.raises(errors.UserError, match=f"{re.escape(str(packed / name))} {message}"):
        shards.source(str(packed))


def test_damaged_labels_are_named(packed: Path) -> None:
    path = packed / "train-labels.npy"
    examples = shards.source(str(packed)).splits["train"]
    np.save(path, np.zeros(20, np.int64))
    with pytest.raises(
        errors.UserError, match=r"has shape \[20\] and dtype int64, but shape \[20\] and"
    ):
        examples.labels()
    path.write_bytes(b"\0" * 100)
    with pytest.raises(errors.UserError, match=f"cannot read the labels {re.escape(str(path))}"):
        examples.labels()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: ValueError"),
        (b'{"\xff', "is damaged: ValueError"),
        (b"[1]", "is damaged: ValueError"),
        (b'{"format": 1}', "is damaged: KeyError"),
        (b'{"format": 1, "splits": {}, "class_names": [], "x": 1}', "is damaged: TypeError"),
        (b'{"format": 2, "cnn_jax": "9.1"}', "has format 2, written by cnn_jax 9.1; .* format 1"),
    ],
)
def test_a_damaged_or_newer_manifest_is_named(packed: Path, content: bytes, message: str) -> None:
    path = packed / shards.MANIFEST
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=f"{re.escape(str(path))} {message}"):
        shards.source(str(packed))


def test_a_directory_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"shards.json cannot be read .No such file"):
        shards.source(str(tmp_path))


@pytest.mark.parametrize("name", [SHARD, "train-labels.npy", shards.MANIFEST])
def test_only_regular_files_are_read(packed: Path, name: str) -> None:
    content = json.loads((packed / shards.MANIFEST).read_bytes())
    stored = content["splits"]["train"]
    for file in (stored["labels"], *stored["shards"]):
        file["bytes"] = 0 if file["name"] == name else file["bytes"]
    (packed / shards.MANIFEST).write_text(json.dumps(content))
    (packed / name).unlink()
    os.mkfifo(packed / name)

    def read() -> None:
        examples = shards.source(packed).splits["train"]
        examples.labels()
        examples[10]  # of SHARD

    with pytest.raises(errors.UserError, match=f"{name}.*it is no regular file"):
        read()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "../train-labels.npy"}, "'../train-labels.npy' is not the name of a file"),
        ({"name": 3}, "3 is not the name of a file in the directory"),
        ({"records": 2**63}, "9223372036854775808 is not a number of records"),
        ({"records": "7"}, "'7' is not a number of records"),
    ],
)
def test_a_hostile_entry_of_the_manifest_is_refused(
    packed: Path, entry: dict[str, Any], message: str
) -> None:
    content = json.loads((packed / shards.MANIFEST).read_bytes())
    content["splits"]["train"]["labels"] |= entry
    (packed / shards.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(errors.UserError, match=f"is damaged: .*{message}"):
        shards.source(packed)
