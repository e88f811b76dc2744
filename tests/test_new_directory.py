"""Tests of the default work directory, which a process claims, and of stops before training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors, main, plan, train
from cnn_jax.runtime import compilation_cache

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}:smoke"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the current directory of the test, in which the time stands still."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compilation_cache, "use_cache", lambda: None)
    monkeypatch.setattr(time, "strftime", lambda _: "20300101-000000")
    return tmp_path


def test_runs_that_start_in_one_second_get_directories_of_their_own(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directories = []

    def run(settings: plan.Plan, directory: Path) -> train.Outcome:
        directories.append(directory)
        return train.Outcome(3, params_sha256="ab12")

    monkeypatch.setattr(train, "run", run)
    for _ in range(3):
        assert main.main([CONFIG]) == 0
    expected = ["quickstart-20300101-000000" + ending for ending in ("", "-2", "-3")]
    assert directories == [Path("runs") / name for name in expected]
    assert sorted(path.name for path in (here / "runs").iterdir()) == sorted(expected)
    assert capsys.readouterr().out.endswith("work directory: runs/quickstart-20300101-000000-3\n")


def test_a_run_that_fails_before_it_writes_leaves_no_directory(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(settings: plan.Plan, directory: Path) -> train.Outcome:
        assert directory.is_dir()
        raise errors.UserError("no data")

    monkeypatch.setattr(train, "run", run)
    with pytest.raises(errors.UserError, match="no data"):
        main.main([CONFIG])
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("kind", ["a file", "a dangling link"])
def test_runs_that_is_no_directory_is_one_line(here: Path, kind: str) -> None:
    if kind == "a file":
        (here / "runs").touch()
    else:
        (here / "runs").symlink_to("nowhere")
    with pytest.raises(
        errors.UserError, match=r"work directory runs/quickstart-\S+ cannot be made"
    ):
        main.main([CONFIG])


def test_a_signal_while_the_first_step_is_compiled_ends_the_command(here: Path) -> None:
    environment: dict[str, Any] = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "cnn_jax.main", CONFIG, "--workdir=run"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("compiling the training step"):
                process.send_signal(signal.SIGTERM)
                break
        output, complaints = process.communicate(timeout=60)
    assert process.returncode == 143
    assert (output, complaints) == ("", "terminated\n")
    assert not list((here / "run" / "checkpoints").glob("[0-9]*"))
