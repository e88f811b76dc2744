"""Tests of stops, directories and memory of runs in phases."""

import gc
import json
import shutil
import signal
import weakref
from pathlib import Path
from typing import Any

import jax
import pytest

from cnn_jax import errors, plan, predictor, runs
from cnn_jax.runs import logs, workdir
from cnn_jax.runtime import signals
from cnn_jax.runtime.jax_internals import multihost_utils
from cnn_jax.train import extension, job, phases, recorder, runner
from tests.train import everything
from tests.train.test_phases import FIRST, SECOND, run
from tests.train.tiny import NETWORK

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("phases"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a complete run in two phases."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    run(directory)
    return directory


def test_a_missing_or_a_foreign_phase_is_found_before_the_first_step(
    whole: Path, tmp_path: Path
) -> None:
    def watch(row: Any) -> bool:
        pytest.fail(f"training has begun: {row}")

    last = tmp_path / "run" / "phase-2"
    shutil.copytree(workdir.phase(whole, 2), last)
    with pytest.raises(errors.UserError, match=r"run has phase-2 but no config\.json"):
        run(tmp_path / "run", watch=watch)
    shutil.rmtree(last / workdir.CHECKPOINTS)  # It holds another run that has just begun.
    shutil.copy(whole / workdir.CONFIG, tmp_path / "run")
    shutil.copytree(workdir.phase(whole, 1), tmp_path / "run" / "phase-1")
    config = json.loads((last / workdir.CONFIG).read_text())
    config["optim"]["learning_rate"] = 0.5
    (last / workdir.CONFIG).write_text(json.dumps(config))
    with pytest.raises(errors.UserError, match=r"phase-2 holds a run with another config"):
        run(tmp_path / "run", watch=watch)
    shutil.rmtree(last)
    last.symlink_to(workdir.phase(whole, 2))
    with pytest.raises(errors.UserError, match=r"has links in place of files of the run: phase-2;"):
        run(tmp_path / "run", watch=watch)


def test_a_stop_at_the_end_of_a_phase_leaves_a_run_to_continue(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = recorder.Recorder.finish

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "finish", interrupted)
        outcome = run(tmp_path)
    assert (outcome.signal, outcome.params_sha256, outcome.test) == (signal.SIGTERM, "", {})
    assert not workdir.phase(tmp_path, 2).exists()
    with pytest.raises(errors.UserError, match=r"is not finished: it stopped in phase-1 of 2 ph"):
        extension.find(plan.read({"init.extend": str(tmp_path)}))
    assert everything.rows(tmp_path) == [row for row in everything.rows(whole) if row["phase"] == 1]
    (tmp_path / workdir.METRICS).unlink()
    joined = []

    def following(*_: Any) -> None:
        joined.extend(logs.read(tmp_path))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(phases, "_following", following)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert {row["phase"] for row in joined} == {1}  # It was written at the end of the phase.
    run(tmp_path)
    assert everything.rows(tmp_path) == everything.rows(whole)


def test_a_directory_that_is_moved_between_phases_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, directory = phases._on_host, tmp_path / "run"

    def moving(variables: Any) -> Any:
        directory.rename(tmp_path / "moved")
        return original(variables)

    monkeypatch.setattr(phases, "_on_host", moving)
    with pytest.raises(errors.UserError, match=r"was deleted or moved during the run"):
        run(directory)
    assert not directory.exists()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_new_run_that_is_interrupted_early_leaves_no_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "make", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_devices_do_not_hold_the_weights_of_the_phase_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = runner._run
    held: list[weakref.ref[Any]] = []

    def watched(*arguments: Any) -> Any:
        after = original(*arguments)
        held.extend(map(weakref.ref, jax.tree.leaves((after.variables, after.outcome.params))))
        return after

    def watch(row: dict[str, Any]) -> None:
        gc.collect()
        counts.append(sum(one() is not None for one in held))

    counts: list[int] = []
    monkeypatch.setattr(runner, "_run", watched)
    run(None, watch=watch, phases=({**FIRST, "steps": 1}, {**SECOND, "steps": 1}))
    assert held
    assert set(counts) == {0}


def test_the_directory_of_a_plain_run_stands_for_itself(whole: Path, tmp_path: Path) -> None:
    for name in (workdir.CONFIG, workdir.DATASET):
        shutil.copy(workdir.phase(whole, 1) / name, tmp_path)
    shutil.copytree(workdir.phase(whole, 2), tmp_path / "phase-1")
    assert workdir.last_phase(tmp_path) == tmp_path
    assert workdir.whole(tmp_path / "phase-1") == tmp_path / "phase-1"
    assert workdir.whole(workdir.phase(whole, 2)) == whole


def test_no_code_is_imported_from_the_directory_of_an_untrusted_run_in_phases(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = tmp_path / "received"
    shutil.copytree(whole, received)
    (received / "planted.py").write_text("raise SystemExit('code of a work directory has run')")
    for number in (1, 2):
        path = workdir.phase(received, number) / workdir.CONFIG
        path.write_text(path.read_text().replace(NETWORK, "received.planted:network"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.UserError, match=r"trust"):
        predictor.load("received")


def test_the_table_of_runs_has_the_lines_of_a_phase_that_is_running(
    whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    expected = runs.read(whole)
    (tmp_path / "run" / workdir.METRICS).unlink()
    rows = runs.read(tmp_path / "run")
    assert [(row["step"], row["phase"]) for row in rows] == [
        (row["step"], row["phase"]) for row in expected
    ]


def test_a_warning_of_all_phases_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    given = ({"steps": 1}, {"steps": 1, "optim": {"b1": 0.5}})
    run(None, phases=given, **{"optim.schedule.power": 3.0})
    texts = [text for text in caplog.messages if "no effect" in text]
    assert [text.partition(" has no effect")[0] for text in texts] == [
        "optim.schedule.power 3.0",
        "phases, entry 2: optim.b1 0.5",
    ]


def test_sync_points_of_several_hosts_are_counted_by_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers: list[int] = []

    def reached(number: int) -> bool:
        numbers.append(number)
        return False

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    for _ in range(2):  # As in two phases.
        interruption = signals.Interruption()
        assert not interruption.requested()
        assert not interruption.requested()
    assert numbers == list(range(numbers[0], numbers[0] + 4))
