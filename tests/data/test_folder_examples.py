"""The examples of folders: their order, names and contents, and files that cannot be read."""

import contextlib
import hashlib
import os
import pickle
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import errors
from cnn_jax.data.sources import folders
from tests.data.class_folders import ANIMALS, hashed, names, read, write


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory that is used without the rights of root, which may read everything."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        user = os.geteuid()
        if user == 0:
            os.chown(directory, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(directory)
        finally:
            os.seteuid(user)


def test_order_depends_on_neither_place_nor_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"{label}/{number}.jpg" for label in "abc" for number in range(50)]
    write(tmp_path / "one", paths)
    write(tmp_path / "two/train", reversed(paths))
    write(tmp_path / "two/val", paths[:70])
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert names(one.splits["train"]) == names(two.splits["train"]) == hashed(paths)
    assert names(two.splits["validation"]) == hashed(paths[:70])
    scandir = os.scandir

    @contextlib.contextmanager
    def shuffled(path: bytes) -> Iterator[list[os.DirEntry[bytes]]]:
        with scandir(path) as entries:
            listed = list(entries)
        random.Random(0).shuffle(listed)
        yield listed

    monkeypatch.setattr(os, "scandir", shuffled)
    again = read(tmp_path / "one")
    assert again.class_names == one.class_names
    assert names(again.splits["train"]) == hashed(paths)


def test_equal_hashes_are_in_the_order_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, reversed(ANIMALS))
    constant = SimpleNamespace(digest=lambda: bytes(8))
    monkeypatch.setattr(hashlib, "blake2b", lambda path, digest_size: constant)
    assert names(read(tmp_path).splits["train"]) == [*ANIMALS[:3], "fox/a/1.gif", "fox/a/b/1.webp"]


def test_a_slice_holds_all_classes(tmp_path: Path) -> None:
    write(tmp_path, [f"{label}/{number}.jpg" for label in "abcd" for number in range(100)])
    labels = read(tmp_path).splits["train"].labels()
    assert np.bincount(labels[:40]).min() >= 4


NAMES = st.text("aB .-\\\n\"'&é日\u0301😀", min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.tuples(NAMES, NAMES), min_size=1, max_size=6))
def test_any_names_are_read_as_written(pairs: set[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        paths = {f"c{label}/i{name}.jpg" for label, name in pairs} | {"c1/i.jpg", "c2/i.jpg"}
        write(Path(directory), paths)
        source = read(Path(directory))
        examples = source.splits["train"]
        assert source.class_names == tuple(sorted({path.split("/")[0] for path in paths}))
        assert names(examples) == hashed(paths)
        for index in range(len(examples)):
            assert examples[index]["image"] == examples.name(index).encode()


def test_names_that_are_not_text_are_read_and_can_be_printed(tmp_path: Path) -> None:
    written = [b"caf\xe9/\xff 1.jpg", b"caf\xe9/2.jpg", "ñandú/日本 1.jpg".encode()]
    write(tmp_path, written)
    source = read(tmp_path)
    assert source.class_names == (r"caf\xe9", "ñandú")
    examples = source.splits["train"]
    found = {examples.name(index): examples[index]["image"] for index in range(3)}
    printable = (r"caf\xe9/\xff 1.jpg", r"caf\xe9/2.jpg", "ñandú/日本 1.jpg")
    assert found == dict(zip(printable, written, strict=True))


def test_unreadable_images_are_named_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    (tmp_path / "cat/broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "cat/folder.jpg").symlink_to(tmp_path / "dog")
    examples = read(tmp_path).splits["train"]
    (tmp_path / "dog/1.jpg").unlink()
    for name, reason in (
        ("dog/1.jpg", "No such file or directory"),
        ("cat/broken.jpg", "No such file or directory"),
        ("cat/folder.jpg", "Is a directory"),
    ):
        message = f"{tmp_path / name}: cannot be read: {reason}"
        with pytest.raises(errors.UnreadableImageError, match=f"^{re.escape(message)}$"):
            examples[names(examples).index(name)]


def test_missing_permission_is_named() -> None:
    with unprivileged() as root:
        write(root, ["cat/1.jpg", "dog/1.jpg"])
        examples = read(root).splits["train"]
        (root / "cat/1.jpg").chmod(0)
        with pytest.raises(
            errors.UnreadableImageError, match=r"1\.jpg: cannot be read: Permission"
        ):
            examples[names(examples).index("cat/1.jpg")]
        (root / "cat").chmod(0)
        with pytest.raises(errors.UserError, match="cat cannot be listed: Permission denied"):
            read(root)
        (root / "cat").chmod(0o700)
        for mode, directory in ((0, root), (0, root / "cat"), (0o400, root)):
            root.chmod(mode)
            with pytest.raises(errors.UserError, match=r"Permission denied.*; data\.directory"):
                read(directory)
        root.chmod(0o755)


def test_examples_are_counted_like_a_sequence(tmp_path: Path) -> None:
    write(tmp_path, ANIMALS)
    examples = read(tmp_path).splits["train"]
    assert examples[-1] == examples[4]
    assert examples.name(-5) == examples.name(0)
    for index in (5, -6):
        with pytest.raises(IndexError):
            examples[index]


def test_pickle_is_small_and_equal(tmp_path: Path) -> None:
    write(tmp_path, [f"{label}/{number}.jpg" for label in "ab" for number in range(500)])
    examples = read(tmp_path).splits["train"]
    pickled = pickle.dumps(examples)
    assert len(pickled) < 1000 * (len("a/000.jpg") + 8) + 1000
    copy = pickle.loads(pickled)
    assert names(copy) == names(examples)
    assert copy[17] == examples[17]


def test_a_relative_directory_stays_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "set", ANIMALS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    sources = [folders.source(directory) for directory in ("set", "~/set", "set/../set/")]
    monkeypatch.chdir("/")
    for source in sources:
        examples = source.splits["train"]
        assert examples[0]["image"] == examples.name(0).encode()
