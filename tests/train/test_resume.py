"""Tests of resuming: a run that was killed ends with the bits of one that was not."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from cnn_jax import errors, objectives, plan, train
from cnn_jax.runs import checkpoint, logs
from cnn_jax.runs import workdir as workdirs
from cnn_jax.runtime import sharding
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import programs, state
from configs import quickstart
from tests.caches import share_native_kernels
from tests.toys import Averaged

ROOT = Path(__file__).parents[2]
# A run of some seconds. Ten kills need a longer one: that of the quickstart.
SHORT = ("--config.train.epochs=30", "--config.checkpoint.every_steps=50")
# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("resume"), pytest.mark.usefixtures("shared_programs")]


def start(workdir: Path, *flags: str) -> subprocess.Popen[str]:
    cache = workdir.parent / "resume-cache"
    share_native_kernels(cache)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "cnn_jax.main"),
            *("--config=configs/quickstart.py", f"--workdir={workdir}", *flags),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            # The first process compiles; the others load the compiled programs.
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "XDG_CACHE_HOME": str(cache),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir: Path, *flags: str) -> str:
    """Runs to the end and returns the output on standard error."""
    process = start(workdir, *flags)
    _, messages = process.communicate(timeout=600)
    assert process.returncode == 0, messages
    return messages


def rows(workdir: Path) -> list[dict[str, Any]]:
    """Returns the log without measured times."""
    times = ("images_per_second", "data_wait", "compile_seconds")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    content = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in times} for row in content]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Returns a function that returns the log of an uninterrupted run with some flags."""

    @functools.cache
    def log(*flags: str) -> list[dict[str, Any]]:
        workdir = tmp_path_factory.mktemp("uninterrupted")
        finish(workdir, *flags)
        result = rows(workdir)
        assert result[-1]["split"] == "final"
        assert result[-1]["params_sha256"]
        return result

    return log


def wait_for_progress(workdir: Path, process: subprocess.Popen[str], newest: int) -> None:
    """Waits for a checkpoint after step `newest`, so that a kill loses some work."""
    while process.poll() is None:
        if checkpoint.steps(workdir / "checkpoints")[-1:] > [newest]:
            return
        time.sleep(0.01)


def is_saving(workdir: Path) -> bool:
    return any("tmp" in path.name for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("kills", "flags"),
    [
        pytest.param(2, SHORT, marks=pytest.mark.slow),
        pytest.param(10, (), marks=pytest.mark.full),
    ],
    ids=["two", "ten"],
)
def test_killed_at_random_moments(
    tmp_path: Path,
    uninterrupted: Callable[..., list[dict[str, Any]]],
    kills: int,
    flags: tuple[str, ...],
) -> None:
    rng = random.Random(0)
    kills_in_a_save = 0
    newest = 0
    for kill in range(kills):
        process = start(tmp_path, *flags)
        wait_for_progress(tmp_path, process, newest)
        time.sleep(rng.uniform(0, 0.2))
        while kill % 2 and process.poll() is None and not is_saving(tmp_path):
            time.sleep(0.001)  # Every other kill interrupts a save.
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
        kills_in_a_save += is_saving(tmp_path)
        newest = checkpoint.steps(tmp_path / "checkpoints")[-1]
    assert kills_in_a_save > 0
    finish(tmp_path, *flags)
    assert rows(tmp_path) == uninterrupted(*flags)


@pytest.mark.slow
def test_terminated(tmp_path: Path, uninterrupted: Callable[..., list[dict[str, Any]]]) -> None:
    newest = 0
    for _ in range(2):
        process = start(tmp_path, *SHORT)
        wait_for_progress(tmp_path, process, newest)
        process.terminate()
        asked = time.monotonic()
        output, messages = process.communicate(timeout=60)
        assert time.monotonic() - asked < 10
        assert process.returncode == 128 + signal.SIGTERM, messages
        assert "stopped and saved at step" in output
        saved = checkpoint.steps(tmp_path / "checkpoints")[-1]
        assert f"at step {saved};" in output
        assert saved > newest
        newest = saved
    finish(tmp_path, *SHORT)
    assert rows(tmp_path) == uninterrupted(*SHORT)


@pytest.mark.slow
def test_truncated_file_of_the_newest_checkpoint(
    tmp_path: Path, uninterrupted: Callable[..., list[dict[str, Any]]]
) -> None:
    process = start(tmp_path, *SHORT)
    wait_for_progress(tmp_path, process, 200)
    process.terminate()
    process.communicate()
    newest = tmp_path / "checkpoints" / str(checkpoint.steps(tmp_path / "checkpoints")[-1])
    victim = max((newest / "state").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)
    messages = finish(tmp_path, *SHORT)
    assert f"checkpoint {newest.name} is damaged" in messages
    assert "Traceback" not in messages
    assert (tmp_path / "damaged_checkpoints" / newest.name).is_dir()
    assert rows(tmp_path) == uninterrupted(*SHORT)


def small() -> ConfigDict:
    """Returns a run of a few steps of a network that compiles fast."""
    config = quickstart.get_config("smoke")
    config.model.update(name="mlp", widths=(4,))
    return config


@pytest.mark.parametrize(("steps_per_call", "stops"), [(1, (1, 2, 3)), (3, (3, 5, 6))])
def test_stopped_after_any_call_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_per_call: int, stops: tuple[int, ...]
) -> None:
    config = small()
    config.model.dropout_rate = 0.5
    config.train.steps_per_call = steps_per_call
    config.train.steps = stops[-1] + 1
    config.log.every_steps = 5  # Six steps are an epoch.
    train.run(config, tmp_path / "whole")
    for stop in stops:
        with monkeypatch.context() as patch:
            patch.setattr(Interruption, "requested", lambda self: True)
            assert train.run(config, tmp_path / "parts").step == stop
    assert train.run(config, tmp_path / "parts").step == config.train.steps
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_resuming_makes_no_initial_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small()
    config.train.steps_per_call = 1
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "requested", lambda self: True)
        assert train.run(config, tmp_path).step == 1

    def make_create(*arguments: Any) -> Any:
        def create(given: Any) -> Any:
            raise AssertionError("the memory of two states would be in use at once")

        return create

    monkeypatch.setattr(programs, "_kept", [])
    monkeypatch.setattr(state, "make_create", make_create)
    assert train.run(config, tmp_path).step == config.train.steps


def test_extra_state_is_resumed_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small()
    config.train.steps_per_call = 1
    make = objectives.make
    monkeypatch.setattr(objectives, "make", lambda *parts: Averaged(make(*parts)))
    monkeypatch.setattr(programs, "_kept", [])
    train.run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "requested", lambda self: True)
        assert train.run(config, tmp_path / "parts").step == 1
    assert train.run(config, tmp_path / "parts").step == config.train.steps

    shape, layout = (32, 32, 1), sharding.make_layout()
    description = workdirs.load_description(tmp_path / "whole")
    objective = objectives.make(plan.read(config), description)
    params = objectives.abstract_variables(objective, shape, layout)["params"]
    digests = [
        state.sha256(checkpoint.restore(tmp_path / name / "checkpoints", 4, like).state)
        for name in ("whole", "parts")
        for like in ({"extra": {"average": params}}, {"params": params})
    ]
    assert digests[:2] == digests[2:]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_complete_run_can_be_repeated(tmp_path: Path) -> None:
    config = small()
    first = train.run(config, tmp_path)
    before = rows(tmp_path)
    assert train.run(config, tmp_path) == first
    assert rows(tmp_path) == before


def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = small()
    config.optim.learning_rate = 1e30
    config.checkpoint.every_steps = 1
    with pytest.raises(errors.DivergedError, match=r"at step [1234] is not finite.*learning_rate"):
        train.run(config, tmp_path)
    assert all(row["split"] != "final" for row in logs.read(tmp_path))
