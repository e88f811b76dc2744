"""Tests that the package needs nothing of the standard library that Windows or macOS lacks."""

import ast
import errno
import fcntl
import importlib.util
import io
import multiprocessing
import os
import queue
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnn_jax import config_files, errors
from cnn_jax.data import pipeline
from cnn_jax.data.pack import writer
from cnn_jax.data.sources import digits, record_files, tfds
from cnn_jax.runs import workdir
from cnn_jax.runtime import console, exits, files, locks, outputs, ownership
from tests import systems

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "cnn_jax").rglob("*.py"))
TEXT = "text of the file"


# The scan


@pytest.mark.parametrize("system", systems.SYSTEMS)
def test_the_package_uses_only_what_every_system_has(system: str) -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in PACKAGE
        if (names := systems.lacking(path.read_text(encoding="utf-8"), system))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("code", "windows", "macos"),
    [
        ("import fcntl", ["line 1: fcntl"], []),
        ("import os\nos.killpg(1, 9)", ["line 2: os.killpg"], []),
        ("import os\nos.sched_getaffinity(0)", *[["line 2: os.sched_getaffinity"]] * 2),
        ("import os\nx = os.ST_NOEXEC", *[["line 2: os.ST_NOEXEC"]] * 2),
        ("from signal import SIGKILL, SIGTERM", ["line 1: signal.SIGKILL"], []),
        ("import signal\nsignal.pthread_sigmask", ["line 2: signal.pthread_sigmask"], []),
        ("import os, select\nselect.poll()", ["line 2: select.poll"], []),
        ("import os\ndef f():\n  if hasattr(os, 'killpg'): os.killpg(1, 9)", [], []),
        ("import os\nif hasattr(os, 'kill'):\n  os.killpg(1, 9)", ["line 3: os.killpg"], []),
        ("try:\n  import pwd\nexcept ImportError: pass", [], []),
        ("try:\n  import pwd\nexcept KeyError: pass", ["line 2: pwd"], []),
        ("import os, time\nos.replace\nos.fsync\ntime.sleep\nos.O_BINARY", [], []),
    ],
)
def test_the_scan_finds_what_a_system_lacks(
    code: str, windows: list[str], macos: list[str]
) -> None:
    assert [systems.lacking(code, system) for system in systems.SYSTEMS] == [windows, macos]


def test_text_files_are_opened_with_an_encoding() -> None:
    """Windows reads and writes other bytes without (PEP 597)."""
    flags = ["--preview", "--select=PLW1514", "--no-cache"]
    command = [sys.executable, "-m", "ruff", "check", *flags, "cnn_jax", "configs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    # Ruff knows neither `subprocess` nor the types of expressions such as `directory / "file"`.
    assert [f"{path}: {call}" for path in PACKAGE for call in without_encoding(path)] == []


def without_encoding(path: Path) -> list[str]:
    """Returns the calls in a file that read or write text in the encoding of the system."""
    code = path.read_text(encoding="utf-8")
    if "_text(" not in code and "text=True" not in code:
        return []
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        names = {keyword.arg for keyword in call.keywords}
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if method in ("read_text", "write_text"):
            is_text = len(call.args) == ("read_text", "write_text").index(method)
        else:
            is_text = "text" in names and method in ("run", "Popen")
        if is_text and "encoding" not in names:
            found.append(ast.unparse(call))
    return found


def test_paths_with_a_drive_letter_are_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("C:\\runs\\mnist", "C:/runs/mnist", "\\\\server\\runs"):
        assert files.local(name, "--workdir") == Path(name)
    config = Path("C:\\configs\\mine.py")
    config.touch()
    assert config_files.find(f"{config}:smoke") == (config, "smoke")
    assert config_files.find(str(config)) == (config, None)
    with pytest.raises(errors.UserError, match=re.escape(r"no config file 'D:\\mine.py'")):
        config_files.find("D:\\mine.py:smoke")


def test_commands_are_guarded_against_their_import_by_worker_processes() -> None:
    """Windows and macOS start processes that import the main module again."""
    commands = [path for path in PACKAGE if "console.exit_with(main)" in path.read_text("utf-8")]
    assert len(commands) >= 6
    for path in commands:
        *_, last = ast.parse(path.read_text("utf-8")).body
        assert isinstance(last, ast.If)
        assert ast.unparse(last.test) == "__name__ == '__main__'", path


# Windows, simulated


@pytest.mark.slow
def test_the_quickstart_runs_on_a_simulated_windows(tmp_path: Path) -> None:
    """No `fcntl`, no `os.sched_getaffinity`, no handlers of SIGTERM, no compiler."""
    directory, pictures = tmp_path / "run", tmp_path / "pictures"
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (pictures / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(pictures / name / "1.png")
    commands = (
        f"cnn_jax.main --config=configs/quickstart.py --workdir={directory}"
        " --config.train.epochs=2.0 --config.eval.every_epochs=1.0",
        f"cnn_jax.evaluate --workdir={directory}",
        f"cnn_jax.data.pack {pictures} {tmp_path / 'shards'} --shards=1",
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.systems", *commands],
        cwd=ROOT,
        env={**os.environ, "PATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "no native kernels" in line)
    assert "the native kernels have no build for Windows (XLA's operations are used" in line
    (tested,) = re.findall(r"^test top1: (.*)$", done.stdout, re.MULTILINE)
    assert float(tested) > 0.3
    assert "checkpoint:  step 40" in done.stdout
    assert (directory / "evaluation-test-best.json").exists()
    assert (tmp_path / "shards" / "shards.json").exists()


def without(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> None:
    for name in names:
        monkeypatch.delattr(module, name)


def test_files_are_read_and_written_without_flags_of_unix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, os, "O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC")
    files.write(tmp_path / "file", "a\r\nb\n")
    assert files.read(tmp_path / "file", 100) == b"a\r\nb\n"
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        locks.open_lock(tmp_path / "link")
    with workdir.lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_bytes() == b""


def test_flags_of_windows_are_used_where_they_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "O_BINARY", 1 << 40, raising=False)
    assert files.flags() == 1 << 40
    assert files.flags("O_NOFOLLOW", "O_NONE") == os.O_NOFOLLOW | 1 << 40


def in_use(failures: int, code: int) -> Callable[[Path, Path], None]:
    """Returns a function like `os.replace`, whose first calls fail as on Windows."""
    replace, left = os.replace, [failures]

    def called(source: Path, target: Path) -> None:
        if left[0]:
            left[0] -= 1
            error = PermissionError(errno.EACCES, "Access is denied")
            vars(error)["winerror"] = code
            raise error
        replace(source, target)

    return called


@pytest.mark.parametrize("code", [5, 32])
def test_a_file_that_is_open_elsewhere_is_replaced_when_it_is_closed(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_PAUSES", (0.0,) * 3)
    files.write(tmp_path / "file", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", in_use(3, code))
        files.write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_bytes() == b"new"
    monkeypatch.setattr(os, "replace", in_use(4, code))
    expected = "file cannot be written: Access is denied; another program may have it open"
    with pytest.raises(errors.UserError, match=expected):
        files.write(tmp_path / "file", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_refusal_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", in_use(1, 19))  # ERROR_WRITE_PROTECT
    with pytest.raises(errors.UserError, match=r"file cannot be written: Access is denied$"):
        files.write(tmp_path / "file", "new")


def test_locks_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """A process of an earlier version, which calls `flock`, and one of this version see another."""
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open("ab") as file:
        with workdir.lock(tmp_path), pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refused = pytest.raises(errors.UserError, match="another process is writing to")
        with refused, workdir.lock(tmp_path):
            pass
    assert (tmp_path / ".lock").exists()  # A waiting process must lock the same file.


def test_a_file_system_without_locks_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    refused = pytest.raises(errors.UserError, match="or locked: No locks available; choose another")
    with refused, workdir.lock(tmp_path):
        pass


def test_the_cache_needs_no_user_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels").mkdir(mode=0o777)
    (tmp_path / "kernels").chmod(0o777)  # The mode of every directory on Windows.
    without(monkeypatch, os, "geteuid")
    assert ownership.private_directory(tmp_path, "kernels") == tmp_path / "kernels"
    assert ownership.user() == ""
    (tmp_path / "link").symlink_to(tmp_path / "kernels")
    with pytest.raises(ownership.ExposedError, match="is a symbolic link"):
        ownership.require_private(tmp_path / "link")


def test_a_work_directory_needs_no_limits_of_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, os, "pathconf")
    workdir._check_writable(tmp_path / "run")


def test_a_closed_output_is_found_without_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, select, "poll")
    reader, descriptor = os.pipe()
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(TEXT)
        assert not outputs.is_lost(stream)
        os.close(reader)
        stream.write(TEXT)
        assert outputs.is_lost(stream)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def test_letters_that_an_output_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python writes into a pipe on Windows in an encoding of 256 letters."""
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, "cp1252", newline=""))
    with pytest.raises(SystemExit):
        console.exit_with(lambda: print("µ → 日") or 0)
    assert content.getvalue() == "µ \\u2192 \\u65e5\n".encode("cp1252")


def test_a_command_runs_where_sigterm_has_no_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    install = signal.signal

    def refuse(number: int, handler: exits.Handler) -> Any:
        if number == signal.SIGTERM:
            raise ValueError("signal number 15 out of range")
        return install(number, handler)

    monkeypatch.setattr(signal, "signal", refuse)
    before = signal.getsignal(signal.SIGTERM)
    with exits.at_once():
        assert signal.getsignal(signal.SIGTERM) == before
        assert signal.getsignal(signal.SIGINT) == exits._do_nothing


def test_ctrl_break_ends_a_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    statuses: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(os, "_exit", statuses.put)
    monkeypatch.setattr(exits, "SIGNALS", (*exits.SIGNALS, signal.SIGUSR1))
    monkeypatch.setattr(exits.handle, "__defaults__", (exits.SIGNALS,))
    with exits.at_once():
        signal.raise_signal(signal.SIGUSR1)
        assert statuses.get(timeout=60) == 128 + signal.SIGUSR1
    assert capfd.readouterr().err == "terminated\n"


def test_workers_ignore_ctrl_c_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[int, Any] = {}
    without(monkeypatch, signal, "pthread_sigmask")
    monkeypatch.setattr(signal, "signal", heard.__setitem__)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: None)
    pipeline._block_signals()
    assert heard == {}
    pipeline._start_worker(0, 1)
    assert heard == {signal.SIGINT: signal.SIG_IGN}


# Packages that Windows lacks


@pytest.mark.parametrize(
    "use",
    [
        lambda directory: writer.pack(digits.source(), directory / "out"),
        lambda directory: tfds.source("mnist", directory),
        lambda directory: record_files.module("the shard"),
    ],
)
def test_without_array_record_an_error_says_so(
    use: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = (
        "needs the package array_record, which is not installed.* Windows has no such package"
    )
    with pytest.raises(errors.UserError, match=expected):
        use(tmp_path)
    assert not list(tmp_path.iterdir())
