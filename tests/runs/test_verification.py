"""Tests of foreign and damaged entries beside checkpoints: none of them stops a run from saving."""

import errno
import gc
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.runs import checkpoint, verification
from cnn_jax.runs.checkpoint import Checkpoints
from tests.saves import PENDING, assert_is_step, state_at

# With Python 3.13, event loops that Orbax leaves after a failed restore complain when deleted.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def save(directory: Path, step: int) -> None:
    checkpoints = Checkpoints(directory, keep=2, monitor="top1")
    try:
        checkpoints.save(step, state_at(step), PENDING, rank=0.5)
    finally:
        checkpoints.close()


def test_entries_that_are_no_checkpoints_are_left_alone(copied: Path) -> None:
    foreign = {"007", "3.bak", "+4", "1٣", "9\n", "99999999999999999999"}
    for name in foreign:
        shutil.copytree(copied / "2", copied / name)
    (copied / "notes.txt").touch()
    (copied / "link").symlink_to("nowhere")
    assert checkpoint.newest(copied, copied.with_name("damaged")) == 2
    save(copied, 3)
    assert names(copied) == {"1", "2", "3", "notes.txt", "link", *foreign}
    assert_is_step(checkpoint.restore(copied, 3, state_at(0)), 3)


@pytest.mark.parametrize("kind", ["a file", "an empty directory", "a FIFO", "a copy"])
def test_entries_with_the_name_of_a_checkpoint_are_moved_away(copied: Path, kind: str) -> None:
    path, quarantine = copied / "3", copied.with_name("damaged")
    if kind == "a file":
        path.touch()
    elif kind == "an empty directory":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    else:
        shutil.copytree(copied / "2", path)
    assert checkpoint.newest(copied, quarantine) == 2
    assert names(quarantine) == {"3"}
    save(copied, 3)
    assert_is_step(checkpoint.restore(copied, 3, state_at(0)), 3)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"metrics/metrics": 3}', "[" * 10**5])
def test_digests_of_no_file_verify_nothing(copied: Path, content: str) -> None:
    (copied / "2" / verification.DIGESTS).write_text(content)
    with pytest.raises(verification.DamagedError, match="checkpoint 2 is damaged"):
        verification.verify(copied, 2)
    assert checkpoint.newest(copied) == 1


def test_a_checkpoint_without_its_step_is_that_of_an_earlier_version(copied: Path) -> None:
    progress = copied / "2" / "progress" / "metadata"
    content = json.loads(progress.read_text())
    assert content.pop("step") == 2
    progress.write_text(json.dumps(content))
    sign(copied / "2")
    assert checkpoint.newest(copied) == 2


def test_a_damaged_checkpoint_on_another_file_system_is_renamed_there(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, quarantine = Path.rename, copied.with_name("damaged")

    def refuse(self: Path, target: Path) -> Path:
        if Path(target).parent == quarantine:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    for expected in ({"1", "2.damaged"}, {"1", "2.damaged", "2.damaged-again"}):
        (copied / "2" / verification.DIGESTS).unlink()
        assert checkpoint.newest(copied, quarantine) == 1
        assert names(copied) == expected
        save(copied, 2)
    assert_is_step(checkpoint.restore(copied, 2, state_at(0)), 2)


def test_a_quarantine_that_is_a_link_is_not_used(copied: Path, tmp_path: Path) -> None:
    quarantine, outside = tmp_path / "damaged", tmp_path / "outside"
    outside.mkdir()
    quarantine.symlink_to(outside)
    (copied / "2" / verification.DIGESTS).unlink()
    assert checkpoint.newest(copied, quarantine) == 1
    assert names(outside) == set()
    assert names(copied) == {"1", "2.damaged"}


def test_a_damaged_checkpoint_that_cannot_be_moved_is_named(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    (copied / "2" / verification.DIGESTS).unlink()
    with pytest.raises(errors.UserError, match="2 is damaged and cannot be moved away: Read-only"):
        checkpoint.newest(copied, copied.with_name("damaged"))


def sign(path: Path) -> None:
    """Writes digests that match the files of a checkpoint as they are now."""
    (path / verification.DIGESTS).write_text(json.dumps(verification.digests(path)))


def in_other_words(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def become_a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES = {
    "a list": in_other_words(b"[]"),
    "an object": in_other_words(b'{"pending": {"a": [1, "x"]}, "accuracy": "b", "step": 2}'),
    "deep": in_other_words(b"[" * 10**5),
    "no text": in_other_words(b"\xff\xfe\0"),
    "a directory": become_a_directory,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["progress/metadata", "state/_METADATA"])
def test_damage_behind_matching_digests_is_one_line(
    copied: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(copied / "2" / name)
    sign(copied / "2")
    with pytest.raises(errors.UserError, match=r"checkpoint 2 .*is damaged") as caught:
        checkpoint.restore(copied, checkpoint.choose(copied, "2"), state_at(0))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(copied))


# A failed read of Orbax leaves coroutines behind, whose event loop is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_to_arrays_behind_matching_digests_is_one_line(copied: Path) -> None:
    (copied / "2" / "state" / "manifest.ocdbt").write_bytes(b"[]")
    sign(copied / "2")
    with pytest.raises(errors.UserError, match=r"checkpoint 2 .*is damaged: ValueError") as caught:
        checkpoint.restore(copied, 2, state_at(0))
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_beside_the_items_is_harmless(
    copied: Path, damage: Callable[[Path], object]
) -> None:
    damage(copied / "2" / "_CHECKPOINT_METADATA")
    save(copied, 3)
    assert_is_step(checkpoint.restore(copied, 3, state_at(0)), 3)


@pytest.mark.parametrize("damage", ["a list", "an object", "deep", "a directory"])
def test_damage_to_the_rank_is_harmless_or_one_line(copied: Path, damage: str) -> None:
    DAMAGES[damage](copied / "2" / "metrics" / "metrics")
    sign(copied / "2")
    if damage in ("a list", "an object"):
        save(copied, 3)
        assert_is_step(checkpoint.restore(copied, 3, state_at(0)), 3)
    else:
        with pytest.raises(errors.UserError, match="checkpoints cannot be used: ") as caught:
            save(copied, 3)
        assert "\n" not in str(caught.value)


def test_a_deleted_directory_is_one_line(copied: Path) -> None:
    checkpoints = Checkpoints(copied, keep=2, monitor="top1")
    shutil.rmtree(copied)
    with pytest.raises(errors.UserError, match="was deleted or moved during the run"):
        checkpoints.save(4, state_at(4), PENDING)
    checkpoints.close()
