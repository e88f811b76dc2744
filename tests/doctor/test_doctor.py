"""Tests of `python -m cnn_jax.doctor`: one failing probe, or a broken JAX, hides nothing else."""

import contextlib
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from cnn_jax import doctor
from cnn_jax.doctor import (
    Finding,
    Level,
    __main__,
    examination,
    isolated,
    report,
    settings,
)
from cnn_jax.doctor.findings import note, ok, problem
from cnn_jax.ops.native import build
from cnn_jax.runtime import shipped
from tests.doctor import machines

REPOSITORY = Path(doctor.__file__).parents[2]
PARTS = [name for name, _ in (*examination.WITHOUT_JAX, *examination.WITH_JAX)]


def parts(findings: list[Finding]) -> list[str]:
    return list(dict.fromkeys(each.part for each in findings))


def test_a_note_without_a_next_step_is_refused() -> None:
    with pytest.raises(ValueError, match="'memory' has no next step"):
        note("memory", "little", "")


def test_examine_returns_the_findings_of_every_part() -> None:
    found = doctor.examine()
    assert [part for part in PARTS if part not in parts(found)] == []
    assert not [each for each in found if "probe failed" in each.text]


def test_a_probe_that_fails_is_a_problem_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cosmic_ray() -> Iterator[Finding]:
        yield ok("before", "lost")
        raise KeyError("MemTotal:")

    def intact() -> Iterator[Finding]:
        yield ok("memory", "much")

    monkeypatch.setattr(examination, "WITHOUT_JAX", (("machine", (cosmic_ray, intact)),))
    first, second = examination.without_jax()
    assert (first.part, first.name, first.level) == ("machine", "cosmic ray", Level.PROBLEM)
    assert first.text == "the probe failed: KeyError: 'MemTotal:'"
    assert second == Finding("memory", Level.OK, "much", part="machine")


def test_without_any_package_the_parts_without_jax_appear(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "jax.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # -S leaves out the directory of installed packages.
    command = [sys.executable, "-S", "-m", "cnn_jax.doctor"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    shown = [line for line in result.stdout.splitlines() if line in PARTS]
    assert shown == [*(name for name, _ in examination.WITHOUT_JAX), "devices"]
    assert "ModuleNotFoundError: No module named 'packaging'" in result.stdout
    assert f"next: python -m pip install -r {REPOSITORY / 'requirements.txt'}" in result.stdout


def test_an_installed_package_names_no_file_of_a_clone_for_a_missing_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = machines.raiser(ModuleNotFoundError("No module named 'absl'", name="absl"))
    monkeypatch.setattr(missing, "__name__", "cache")
    monkeypatch.setattr(shipped, "clone", lambda: None)
    (found,) = examination.attempt("disk", missing)
    assert "No module named 'absl'" in found.text
    assert "python -m pip check" in found.next_step
    assert "absl" not in found.next_step  # The package is absl-py.


def test_only_a_clone_is_on_the_path_of_the_process_with_jax(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/own")
    assert isolated._environment()["PYTHONPATH"] == f"{REPOSITORY}{os.pathsep}/own"
    monkeypatch.setattr(shipped, "clone", lambda: None)
    assert isolated._environment()["PYTHONPATH"] == "/own"


def test_without_temporary_files_jax_is_not_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
    monkeypatch.setattr(tempfile, "TemporaryFile", machines.raiser(error))
    found = machines.only(isolated.findings(), Level.PROBLEM)
    assert (found.part, found.name) == ("devices", "JAX")
    assert "No usable temporary directory" in found.text
    assert "TMPDIR" in found.next_step


def ended(
    monkeypatch: pytest.MonkeyPatch, place: tuple[str, str, float], messages: str, status: int
) -> Finding:
    """Returns the finding of a process that ends in a probe with these messages and status."""
    line = json.dumps({"place": isolated._Place(*place)._asdict()})

    @contextlib.contextmanager
    def started(seconds: float, file: IO[str]) -> Iterator[types.SimpleNamespace]:
        file.write(messages)
        yield types.SimpleNamespace(stdout=[line], returncode=status)

    monkeypatch.setattr(isolated, "_started", started)
    found = machines.only(isolated.findings(), Level.PROBLEM)
    assert found.part == place[0]
    return found


HANG = "W0000 a warning\nTimeout (0:30:00)!\nThread 0x1 (most recent call first):\n"


def test_a_compiler_that_does_not_end_is_no_fault_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ended(monkeypatch, ("native kernels", "library", 1800.0), HANG, 1)
    assert (found.name, found.text) == ("library", "no result after 1800 s")
    assert "CXX" in found.next_step
    found = ended(monkeypatch, ("all-reduce", "all_reduce", 60.0), HANG, 1)
    assert "sudo dmesg" in found.next_step


@pytest.mark.parametrize(
    ("messages", "status"), [("Error: Timeout (limit of the server)", 1), (HANG, -11)]
)
def test_other_messages_of_a_timeout_are_no_hang(
    monkeypatch: pytest.MonkeyPatch, messages: str, status: int
) -> None:
    found = ended(monkeypatch, ("all-reduce", "all_reduce", 60.0), messages, status)
    assert f"ended with status {status}: " in found.text


def test_the_probes_of_native_kernels_may_take_longer_than_the_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_jax(before: Callable[[str, str], None]) -> Iterator[Finding]:
        before("devices", "start")
        before("native kernels", "library")
        return iter(())

    limits: list[float] = []
    monkeypatch.setattr(faulthandler, "enable", lambda: None)
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda limit, **_: limits.append(limit)
    )
    monkeypatch.setattr(examination, "with_jax", with_jax)
    isolated.write(60.0)
    assert limits[0] == 60.0
    assert limits[1] > build.PROBE_SECONDS + build.COMPILE_SECONDS
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    shown = [each["place"]["seconds"] for each in lines if "place" in each]
    assert shown == limits


@pytest.mark.parametrize(
    ("program", "seconds", "words", "step"),
    [
        ("raise ImportError('libstdc++ is too old')", 20.0, "libstdc++ is too old", "correct"),
        ("import time; time.sleep(60)", 0.1, "no result after 0.1 s", "sudo dmesg"),
        ("import os; os.kill(os.getpid(), 9)", 20.0, "ended with status -9", "--force-reinstall"),
    ],
    ids=["import", "hang", "killed"],
)
def test_a_jax_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    program: str,
    seconds: float,
    words: str,
    step: str,
) -> None:
    (tmp_path / "jax.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    first, *others = isolated.findings(seconds)
    assert (first.part, first.level) == ("devices", Level.PROBLEM)
    assert words in first.text
    assert step in first.next_step
    assert [each.name for each in others] == ["other probes"] * (
        "import" in words or "old" in words
    )


def test_a_flag_that_xla_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--no_such_flag")
    (found,) = isolated.findings()
    assert found.level is Level.PROBLEM
    assert "Unknown flag" in found.text
    assert "--no_such_flag" in found.text
    assert "XLA_FLAGS" in found.next_step


def test_the_command_on_eight_devices(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    exit_status: Callable[..., int | str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    status = exit_status(__main__.main, f"--json={tmp_path / 'findings.json'}")
    shown = capsys.readouterr().out
    stored = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert [line for line in shown.splitlines() if line in PARTS] == PARTS
    found = {each["name"]: each for each in stored}
    assert found["devices"]["text"] == "8 cpu (cpu)"
    assert found["all-reduce"]["text"] == "262,144 float32 on each of 8 cpu devices: right sums"
    assert f"{found['all-reduce']['text']}\n" in shown
    assert status == int(any(each["level"] == "problem" for each in stored))


@pytest.mark.parametrize(("level", "status"), [(problem, 1), (note, 0)])
def test_the_exit_status_is_1_for_a_problem(
    monkeypatch: pytest.MonkeyPatch,
    exit_status: Callable[..., int | str | None],
    capsys: pytest.CaptureFixture[str],
    level: Callable[[str, str, str], Finding],
    status: int,
) -> None:
    monkeypatch.setattr(examination, "without_jax", lambda: [level("GPU 0", "\x1b[2J", "sleep")])
    monkeypatch.setattr(isolated, "findings", lambda: [ok("JAX", "works")])
    assert exit_status(__main__.main) == status
    shown = capsys.readouterr().out
    assert "next: sleep" in shown
    assert "GPU 0" in shown
    assert "\x1b" not in shown


def test_the_summary_names_the_problems() -> None:
    found = [problem("driver", "old", "new"), ok("memory", "much"), note("cores", "few", "more")]
    assert report.summary(found) == "1 problem, 1 note; problems: driver"
    assert report.summary(found[1:2]) == "0 problems, 0 notes"


def test_the_json_holds_no_user_name_and_no_other_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home" / "alice"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("USER", "alice")
    text = f"in {home}/.cache, /scratch/alice/x, C:\\Users\\alice, {home}2 and alice's"
    shown = report.anonymous(text)
    assert shown == f"in ~/.cache, /scratch/USER/x, C:\\Users\\USER, {home}2 and alice's"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "home", lambda: Path("/root"))
        assert report.anonymous("/root/x, '/root', /mnt/root/x") == "~/x, '~', /mnt/root/x"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "node7.example.com")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    stored = report.to_json(list(examination.without_jax()))
    assert "~/cache/cnn_jax" in stored
    for secret in ("alice", "hunter2", "node7"):
        assert secret not in stored
    assert not {"LD_LIBRARY_PATH", "PATH"} & set(settings.VARIABLES)
