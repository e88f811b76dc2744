import contextlib
import fcntl
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from cnn_jax import contracts, errors
from cnn_jax.data import images, pillow
from cnn_jax.data.pack import inputs, journal, verification, writer
from cnn_jax.data.pack.__main__ import main
from cnn_jax.data.sources import folders, shards
from cnn_jax.data.sources.arrays import from_arrays

REPOSITORY = Path(__file__).parents[2]
Run = Callable[..., int | str | None]


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), *channels), np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 25 JPEGs and PNGs for training and 5 for validation, in two classes."""
    root = tmp_path / "folder"
    for number in range(30):
        split = "train" if number < 25 else "val"
        kind = "PNG" if number % 4 == 0 else "JPEG"
        picture = noise(30 + number, 50 - number, 3)
        name = f"{number}.{kind.lower()}"
        write(root / split / ("cat" if number % 3 else "dog") / name, encoded(picture, kind))
    return root


def pack(directory: Path, out: Path, **options: Any) -> writer.Packed:
    return writer.pack(inputs.open_input(directory), out, progress=False, **options)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def check_equal(found: contracts.Source, expected: contracts.Source) -> None:
    assert found.class_names == expected.class_names
    assert list(found.splits) == list(expected.splits)
    for split, examples in expected.splits.items():
        packed = found.splits[split]
        assert len(packed) == len(examples)
        np.testing.assert_array_equal(packed.labels(), examples.labels())
        for index in range(len(examples)):
            assert packed[index] == examples[index]
            assert packed.name(index) == examples.name(index)


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


class Interrupted(BaseException):
    """Stands for a signal."""


@contextlib.contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Context that ends at the `number`th renaming of a file, before it."""
    replace, calls = os.replace, [0]

    def counted(path: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise Interrupted
        replace(path, target)

    with monkeypatch.context() as patch, contextlib.suppress(Interrupted):
        patch.setattr(os, "replace", counted)
        yield


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


# Scaling


def scaled(content: bytes, tmp_path: Path, size: int) -> bytes:
    """Returns the packed bytes of an image."""
    write(tmp_path / "folder" / "a" / "1.jpg", content)
    write(tmp_path / "folder" / "b" / "2.jpg", encoded(noise(8, 8), "PNG"))
    pack(tmp_path / "folder", tmp_path / "out", size=size)
    examples = shards.source(str(tmp_path / "out")).splits["train"]
    by_name = {examples.name(index): examples[index]["image"] for index in range(2)}
    found: bytes = by_name["a/1.jpg"]
    return found


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(100, 151, (64, 96)), (90, 65, (88, 64))]
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_larger_jpeg_is_scaled_to_its_shorter_side_and_encoded_again(
    tmp_path: Path, height: int, width: int, expected: tuple[int, int], channels: tuple[int, ...]
) -> None:
    original = encoded(noise(height, width, *channels), "JPEG", quality=90)
    found = scaled(original, tmp_path, 64)
    pixels = images.decode(original, channels[0] if channels else 1, "original")
    small = images.scale_shorter(pixels, 64, "bicubic")
    assert small.shape[:2] == expected
    assert found == encoded(small if channels else small[..., 0], "JPEG", quality=95)


def test_a_larger_png_stays_a_png_with_exact_pixels(tmp_path: Path) -> None:
    original = encoded(noise(80, 70, 3), "PNG")
    found = scaled(original, tmp_path, 64)
    assert pillow.header(found, "found").format == "PNG"
    expected = images.scale_shorter(images.decode(original, 3, "original"), 64, "bicubic")
    np.testing.assert_array_equal(images.decode(found, 3, "found"), expected)


def test_the_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    original = encoded(noise(100, 150, 3), "JPEG", exif=exif)
    found = pillow.header(scaled(original, tmp_path, 64), "found")
    assert (found.height, found.width, found.orientation) == (96, 64, 1)


@pytest.mark.parametrize(
    "content",
    [
        encoded(noise(64, 200, 3), "JPEG"),
        encoded(noise(30, 40, 3), "JPEG"),
        encoded(noise(30, 90, 3), "WEBP"),
        encoded(noise(100, 90).astype(np.uint16) * 257, "PNG"),
    ],
    ids=["equal", "smaller", "smaller webp", "16 bits"],
)
def test_other_images_keep_their_bytes(tmp_path: Path, content: bytes) -> None:
    assert scaled(content, tmp_path, 64) == content


def test_unreadable_images_keep_their_bytes_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated = encoded(noise(200, 200, 3), "JPEG")[:-500]
    contents = {"a/1.jpg": truncated, "a/2.jpg": b"", "b/3.png": b"text"}
    for name, content in contents.items():
        write(tmp_path / "folder" / name, content)
    source = inputs.open_input(tmp_path / "folder")
    writer.pack(source, tmp_path / "out", size=64)
    check_equal(shards.source(str(tmp_path / "out")), source)
    printed = capsys.readouterr().err
    for name in contents:
        assert f"warning: copied without scaling: {name}: not a readable image" in printed


def test_scaling_is_resumed_with_equal_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(folder, tmp_path / "whole", shards=3, size=16)
    with interrupted(monkeypatch, 5):
        pack(folder, tmp_path / "out", shards=3, size=16)
    pack(folder, tmp_path / "out", shards=3, size=16)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# The command


def test_the_command_packs_repeats_and_verifies(
    folder: Path, tmp_path: Path, exit_status: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o [u]t"
    arguments = (main, str(folder), str(out), "--shards=8")
    assert exit_status(*arguments) == 0
    printed = capsys.readouterr()
    assert f"--config.data.source=shards '--config.data.directory={out}'" in printed.out
    assert "train       25 images in 8 shards, " in printed.out
    assert "validation  5 images in 5 shards, " in printed.out
    assert printed.out.count("one image each, fewer than --shards") == 1
    assert "30/30" in printed.err
    assert exit_status(*arguments) == 0
    assert f"{out} (complete before, nothing written;" in capsys.readouterr().out
    assert exit_status(main, f"--verify={out}") == 0
    assert "checksums   all 15 files equal" in capsys.readouterr().out


def test_verification_names_damaged_files(
    folder: Path, tmp_path: Path, exit_status: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    pack(folder, out, shards=3)
    for name in ("train-00001-of-00003.array_record", "validation-labels.npy"):
        content = bytearray((out / name).read_bytes())
        content[-1] ^= 1
        (out / name).write_bytes(content)
    (out / "train-labels.npy").unlink()
    assert exit_status(main, f"--verify={out}") == 1
    message = capsys.readouterr().err
    assert f"3 of 8 files in {out} are damaged: " in message
    assert "train-labels.npy (cannot be read: No such file or directory)" in message
    assert "train-00001-of-00003.array_record (has another checksum)" in message
    assert "validation-labels.npy (has another checksum)" in message


def test_verification_needs_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"shards\.json cannot be read"):
        verification.verify(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing: DIR, OUT, --shards; write python -m cnn_jax.data.pack DIR OUT --shards=N"),
        (["{folder}", "{out}"], "missing: --shards; write"),
        (["--verify={out}", "--shards=2", "--size=9"], "--verify=OUT .* takes no --shards, --size"),
        (["{folder}", "{folder}/out", "--shards=2"], "OUT .*out is inside DIR .*folder, so"),
        (["{folder}", "{folder}", "--shards=2"], "OUT .*folder is inside DIR .*folder, so"),
        (["{folder}/x", "{out}", "--shards=2"], "folder/x cannot be listed: No such file"),
    ],
)
def test_wrong_arguments_are_refused(
    folder: Path,
    tmp_path: Path,
    exit_status: Run,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    places = {"folder": folder, "out": tmp_path / "out"}
    assert exit_status(main, *(argument.format(**places) for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_help_loads_no_jax() -> None:
    script = (
        "import runpy, sys\n"
        "sys.argv = ['pack', '--help']\n"
        "try:\n"
        "    runpy.run_module('cnn_jax.data.pack', run_name='__main__')\n"
        "except SystemExit as error:\n"
        "    assert not error.code\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, capture_output=True)


def test_the_manifest_names_every_file(folder: Path, tmp_path: Path) -> None:
    manifest = pack(folder, tmp_path / "out", shards=2).manifest
    assert shards.read_manifest(tmp_path / "out") == manifest
    names = {file.name for file in manifest.files} | {shards.MANIFEST}
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / shards.MANIFEST).read_text())["format"] == 1
