"""Packing of folders into shards: its files, interruption, and directories that are refused."""

import contextlib
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource

from cnn_jax import errors
from cnn_jax.data.pack import inputs, journal, verification, writer
from cnn_jax.data.sources import folders, shards
from cnn_jax.data.sources.arrays import from_arrays
from tests.data.packing import (
    REPOSITORY,
    check_equal,
    contents,
    encoded,
    interrupted,
    noise,
    pack,
    write,
)


@pytest.mark.parametrize("number", [1, 3, 25])
def test_packed_examples_equal_those_of_the_folder_in_its_order(
    folder: Path, tmp_path: Path, number: int
) -> None:
    packed = pack(folder, tmp_path / "out", shards=number)
    assert not packed.was_complete
    check_equal(shards.source(str(tmp_path / "out")), folders.source(str(folder)))
    counts = {name: len(split.shards) for name, split in packed.manifest.splits.items()}
    assert counts == {"train": number, "validation": min(number, 5)}
    records = [shard.records for shard in packed.manifest.splits["train"].shards]
    assert sum(records) == 25
    assert max(records) - min(records) <= 1


def test_array_record_reads_the_files_in_order(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "out", shards=4)
    paths = sorted((tmp_path / "out").glob("train-*-of-00004.array_record"))
    examples = folders.source(str(folder)).splits["train"]
    records = [shards.decode(record) for record in ArrayRecordDataSource(paths)]
    assert records == [
        (examples[index]["label"], examples.name(index), examples[index]["image"])
        for index in range(25)
    ]


def test_directories_may_be_texts(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    pack_of_texts = writer.pack(inputs.open_input(str(folder)), out, progress=False)
    assert verification.verify(out, progress=False) == pack_of_texts.manifest
    check_equal(shards.source(out), shards.source(Path(out)))


def test_names_of_any_letters_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("grün/ä b.png", "猫/1.png", os.fsdecode(b"\xff\xfe/2.png")):
        write(folder / name, encoded(noise(8, 8), "PNG"))
    pack(folder, tmp_path / "out")
    check_equal(shards.source(str(tmp_path / "out")), folders.source(str(folder)))


def test_shards_can_be_packed_again(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "two", shards=2)
    pack(tmp_path / "two", tmp_path / "three", shards=3)
    check_equal(shards.source(str(tmp_path / "three")), folders.source(str(folder)))


# Interruption and repetition


# Two files of labels, three and three shards, and the manifest are renamed.
@pytest.mark.parametrize("number", range(1, 10))
def test_a_packing_interrupted_between_two_files_continues(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    pack(folder, tmp_path / "whole", shards=3)
    with interrupted(monkeypatch, number):
        pack(folder, tmp_path / "out", shards=3)
    with pytest.raises(errors.UserError, match=r"shards\.json cannot be read"):
        shards.source(str(tmp_path / "out"))
    finished = {path: path.stat().st_ino for path in (tmp_path / "out").glob("*.array_record")}
    assert len(finished) == max(0, number - 3)
    assert not pack(folder, tmp_path / "out", shards=3).was_complete
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert finished == {path: path.stat().st_ino for path in finished}  # Not written again.


def test_a_kill_within_a_shard_loses_that_shard_only(folder: Path, tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from cnn_jax.data.pack import inputs, writer
from cnn_jax.data.sources import folders
source = inputs.open_input(Path({str(folder)!r}))
read = folders.FolderExamples.__getitem__
def killed(examples, index):
    if len(examples) == 25 and index == 23:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(examples, index)
folders.FolderExamples.__getitem__ = killed
writer.pack(source, Path({str(tmp_path / "out")!r}), shards=3)
"""
    with pytest.raises(subprocess.CalledProcessError) as error:
        subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
    assert error.value.returncode == -signal.SIGKILL
    names = {path.name for path in (tmp_path / "out").glob("*.array_record*")}
    last = "train-00002-of-00003.array_record.partial"
    assert names == {f"train-0000{shard}-of-00003.array_record" for shard in (0, 1)} | {last}
    pack(folder, tmp_path / "out", shards=3)
    pack(folder, tmp_path / "whole", shards=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_complete_directory_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(folder, out, shards=2)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert pack(folder, out, shards=2).was_complete
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "train-00001-of-00002.array_record").unlink()
    with pytest.raises(errors.UserError, match=r"train-00001-of-00002\.array_record cannot be"):
        pack(folder, out, shards=2)


def add_picture(folder: Path) -> None:
    write(folder / "train" / "cat" / "new.png", encoded(noise(9, 9), "PNG"))


def rename_picture(folder: Path) -> None:
    (folder / "val" / "cat" / "25.jpeg").rename(folder / "val" / "cat" / "other.jpeg")


def rename_class(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / split / "cat").rename(folder / split / "lion")


def remove_validation(folder: Path) -> None:
    shutil.rmtree(folder / "val")


def keep(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (keep, {"shards": 4}, "--shards was 3, now 4. Choose"),
        (keep, {"size": 20}, "--size was 0, now 20. Choose"),
        (add_picture, {}, "the split 'train' had 25 examples, now 26. Choose"),
        (rename_picture, {}, "names or labels in the split 'validation' have changed. Choose"),
        (rename_class, {}, "the classes have changed; names or labels in the split 'train'"),
        (remove_validation, {}, "the split 'validation' has vanished. Choose"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_other_options_and_changed_images_are_refused(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complete: bool,
    change: Callable[[Path], None],
    options: dict[str, int],
    message: str,
) -> None:
    out = tmp_path / "out"
    with interrupted(monkeypatch, 99 if complete else 5):
        pack(folder, out, shards=3)
    before = contents(out)
    change(folder)
    with pytest.raises(errors.UserError, match=f"holds shards of something else: {message}"):
        pack(folder, out, **{"shards": 3, **options})
    assert contents(out) == before


def test_a_new_split_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "val").rename(tmp_path / "val")
    pack(folder, tmp_path / "out")
    (tmp_path / "val").rename(folder / "val")
    with pytest.raises(errors.UserError, match="the split 'validation' is new"):
        pack(folder, tmp_path / "out")


# The directory of the shards


def test_a_directory_with_other_files_is_refused(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "out" / "thesis.txt", b"years of work")
    with pytest.raises(errors.UserError, match=r"holds other files, such as 'thesis.txt'; choose"):
        pack(folder, tmp_path / "out")
    with pytest.raises(errors.UserError, match=r"thesis.txt is not a directory; choose"):
        pack(folder, tmp_path / "out" / "thesis.txt")
    assert contents(tmp_path / "out") == {"thesis.txt": b"years of work"}


def test_a_shard_from_elsewhere_is_not_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with interrupted(monkeypatch, 4):
        pack(folder, out, shards=3)
    write(out / "train-00002-of-00003.array_record", b"other")
    with pytest.raises(errors.UserError, match=r"train-00002-of-00003\S+ is not in packing.jsonl"):
        pack(folder, out, shards=3)


def test_two_processes_cannot_pack_into_one_directory(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / journal.NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(errors.UserError, match="another process is packing into"):
            pack(folder, out)
    pack(folder, out)


def test_no_process_can_lock_a_journal_before_its_removal(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, removed = Path.unlink, []

    def checked(path: Path, missing_ok: bool = False) -> None:
        if path.name == journal.NAME:
            removed.append(path)
            with path.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", checked)
    pack(folder, tmp_path / "out")
    assert removed == [tmp_path / "out" / journal.NAME]
    assert not removed[0].exists()


def test_a_damaged_journal_is_named(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "out" / journal.NAME, b"[1]\n")
    with pytest.raises(errors.UserError, match=r"packing\.jsonl is damaged: TypeError"):
        pack(folder, tmp_path / "out")


@contextlib.contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Context in which no file can become larger than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_clear_error_and_the_command_continues(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    source = from_arrays({"train": (pixels, [0, 1] * 10)})
    with limited_files(100_000), pytest.raises(errors.UserError) as error:
        writer.pack(source, tmp_path / "out", shards=2, progress=False)
    assert "cannot write " in str(error.value)
    assert "train-00000-of-00002.array_record: " in str(error.value)
    assert "File too large" in str(error.value)
    writer.pack(source, tmp_path / "out", shards=2, progress=False)
    writer.pack(source, tmp_path / "whole", shards=2, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shards": 0}, "--shards must be at least 1, got 0"), ({"size": -1}, "--size must be .* -1")],
)
def test_numbers_out_of_range_are_refused(
    folder: Path, tmp_path: Path, options: dict[str, int], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        pack(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_image_that_vanishes_is_named(folder: Path, tmp_path: Path) -> None:
    source = inputs.open_input(folder)
    (folder / "train" / "cat" / "4.png").unlink()
    with pytest.raises(errors.UserError, match=r"cat/4\.png.* cannot be read"):
        writer.pack(source, tmp_path / "out", progress=False)
