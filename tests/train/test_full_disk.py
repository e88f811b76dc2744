"""Tests of runs whose disk is full, cannot be written any more, or has lost a directory.

    python -m tests.train.test_full_disk DIR

trains in DIR while its file system gets full, makes space and continues.
"""

import asyncio
import errno
import gc
import os
import re
import resource
import shutil
import subprocess
import sys
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
from absl import logging

from cnn_jax import data, errors, plan, train
from cnn_jax.contracts import TrainState
from cnn_jax.metrics import Totals
from cnn_jax.runs import checkpoint, logs, place, quiet
from cnn_jax.runtime import files
from tests.saves import PENDING, state_at

ROOT = Path(__file__).parents[2]
STEPS, FULL_AT = 12, 6
IMAGES = np.full((16, 8, 8, 1), 7, np.uint8)
SOURCE = data.from_arrays({"train": (IMAGES, np.arange(16) % 4)})
CONFIG = plan.read(
    {
        "model.name": "mlp",
        "model.widths": (200,),
        "data.image_size": 8,
        "data.train_split": "train",
        "data.validation_split": "",
        "data.test_split": "",
        "train.batch_size": 8,
        "train.steps": STEPS,
        "log.every_steps": 1,
        "checkpoint.every_steps": 2,
        "checkpoint.keep": STEPS,
        "compilation_cache": False,
    }
)
# A write of TensorStore 0.1.79 on a full tmpfs.
TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing "step/0" in OCDBT database at local file "/x/": Failed '
    'writing: "/x/d/dd24": Failed to write 81771 bytes to file 19: No space left on device '
    "[os_error_code='28']"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), r"Disk quota exceeded \(file system /"),
        (OSError(errno.EROFS, "Read-only file system"), r"Read-only file system \(file system /"),
        (ValueError(TENSORSTORE), r"No space left on device \(file system /.* MB free\)"),
    ],
)
def test_a_save_that_fails_names_the_cause_and_the_complete_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    writer = checkpoint.Checkpoints(tmp_path, keep=2, monitor="top1")
    writer.save(1, state_at(1), PENDING)
    writer._manager.wait_until_finished()
    monkeypatch.setattr(writer._manager, "save", fail)
    expected = f"^{tmp_path} cannot be written: {words}.*; complete checkpoints: 1. Mend "
    with pytest.raises(errors.UserError, match=expected) as caught:
        writer.save(2, state_at(2), PENDING)
    assert "\n" not in str(caught.value)
    writer.close()


def test_an_error_of_another_kind_is_no_error_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a mistake in the code")

    writer = checkpoint.Checkpoints(tmp_path, keep=2, monitor="top1")
    monkeypatch.setattr(writer._manager, "save", fail)
    with pytest.raises(ValueError, match="a mistake in the code") as caught:
        writer.save(1, state_at(1), PENDING)
    assert not isinstance(caught.value, errors.UserError)
    writer.close()


def test_a_record_that_a_full_disk_does_not_take_is_an_error() -> None:
    full = place.GrowingFile(Path("/dev/full"))
    for act in (lambda: full.write(b"line\n"), full.close):
        with pytest.raises(errors.UserError, match="/dev/full cannot be written: No space left"):
            act()
    full.close()  # It is closed in spite of the error.


def test_a_full_file_system_is_named_with_its_size(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    usage = shutil.disk_usage(tmp_path)
    words = files.reason(tmp_path / "none" / "file", full)
    assert words.startswith("No space left on device (file system /")
    assert words.endswith(f" of {usage.total / 1e6:,.1f} MB free)")


def test_only_reports_of_orbax_are_hushed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    for _ in range(2):
        quiet.hush_orbax()
    report: Any = sys.unraisablehook
    for error in (RuntimeError("Event loop is closed"), RuntimeError("another"), OSError("x")):
        report(types.SimpleNamespace(exc_type=type(error), exc_value=error))
    assert [str(found.exc_value) for found in seen] == ["another", "x"]

    info = (ValueError, ValueError("x"), None)
    own, orbax = __file__, f"{os.sep}lib{os.sep}orbax{os.sep}checkpoint.py"
    shown = {
        (path, bool(each)): logging.get_absl_logger().filter(
            logging.get_absl_logger().makeRecord("absl", 40, path, 1, "text", (), each)
        )
        for path in (own, orbax)
        for each in (None, info)
    }
    assert [key for key, is_shown in shown.items() if not is_shown] == [(orbax, True)]


@pytest.mark.parametrize("owner", ["orbax", "another"])
def test_errors_of_tasks_of_orbax_are_not_logged(
    owner: str, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio logs the error of a task when the task is deleted and nobody has read its error."""
    quiet.hush_orbax()
    path = f"{os.sep}lib{os.sep}{owner}{os.sep}writing.py"
    names: dict[str, Any] = {}
    exec(compile("async def write():\n    raise ValueError('full')", path, "exec"), names)
    leave_task(names["write"])
    # Tasks of earlier tests may be deleted here too.
    logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert ("full" in logged) == (owner == "another")


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_errors_of_tasks_of_tensorstore_are_not_logged(
    is_wrapped: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A read that a function of another library awaits is an error of that library."""
    quiet.hush_orbax()
    stored = {"driver": "file", "path": f"{tmp_path}/"}

    def read() -> Any:
        return tensorstore.open({"driver": "zarr", "kvstore": stored})

    async def wrapped() -> None:
        await read()

    leave_task(wrapped if is_wrapped else read)
    logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert any(str(tmp_path) in error for error in logged) == is_wrapped


def leave_task(start: Callable[[], Awaitable[Any]]) -> None:
    """Runs a task that fails, and deletes it without a look at its error."""

    async def leave() -> None:
        task = asyncio.ensure_future(start())
        await asyncio.wait([task])
        del task

    asyncio.run(leave())
    gc.collect()


class Failing:
    """Log and checkpoints that cannot be written."""

    def __init__(self, *_: Any) -> None:
        self.rows: list[logs.Row] = []

    def write(self, row: logs.Row) -> None:
        raise errors.UserError("the first error")

    def save(
        self, step: int, state: TrainState, pending: Totals, rank: float | None = None
    ) -> None:
        raise AssertionError("the log fails before")

    def close(self) -> None:
        raise errors.UserError("an error of closing")


def test_the_first_of_several_errors_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "RunLog", Failing)
    monkeypatch.setattr(checkpoint, "Checkpoints", Failing)
    with pytest.raises(errors.UserError, match=r"^the first error$"):
        train.run(CONFIG, tmp_path, source=SOURCE, progress=False)


def test_deleted_checkpoints_end_the_run_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"

    def watch(row: logs.Row) -> None:
        if row["step"] == FULL_AT:  # The checkpoint of step 4 may be written at this time.
            (directory / "checkpoints").rename(tmp_path / "elsewhere")

    with pytest.raises(errors.UserError, match="checkpoints was deleted or moved during the run"):
        train.run(CONFIG, directory, source=SOURCE, progress=False, watch=watch)
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_on_a_full_disk_ends_in_one_line_and_continues(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.train.test_full_disk", str(tmp_path)]
    if _can_mount():
        mount = f'mount -t tmpfs -o size=3m tmpfs "{tmp_path}" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    full = rf"No space left on device \(file system {tmp_path}: 0\.\d of 3\.1 MB free\)"
    message, first, second = done.stdout.splitlines()
    cause = full if _can_mount() else "File too large"
    assert re.match(f"{tmp_path}/run/.* cannot be written: {cause}; .*complete checkpoint", message)
    assert first == second
    assert "Traceback" not in done.stderr


def _can_mount() -> bool:
    """Returns True if this process may mount a file system of its own."""
    found = shutil.which("unshare") is not None and os.geteuid() == 0
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return found and subprocess.run(command, capture_output=True, check=False).returncode == 0


class Disk:
    """The disk of a run, which can be made full.

    Attributes:
      directory: a directory on it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._own = directory.is_mount()

    def fill(self) -> None:
        """Fills the file system; if it is not the run's own, limits the size of files instead."""
        if not self._own:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            return
        with (self.directory / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 1000)
            except OSError:
                return

    def empty(self) -> None:
        """Makes space again."""
        (self.directory / "filler").unlink(missing_ok=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


def train_on_a_full_disk(directory: Path) -> None:
    """Trains until the disk is full, then to the end; prints the error and two digests."""
    disk = Disk(directory)

    def watch(row: logs.Row) -> None:
        if row["step"] == FULL_AT:
            disk.fill()

    try:
        train.run(CONFIG, directory / "run", source=SOURCE, progress=False, watch=watch)
    except errors.UserError as error:
        print(error)
    disk.empty()
    for place_ in (directory / "run", None):
        print(train.run(CONFIG, place_, source=SOURCE, progress=False).params_sha256)


if __name__ == "__main__":
    train_on_a_full_disk(Path(sys.argv[1]))
