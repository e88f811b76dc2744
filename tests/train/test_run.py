"""Tests of `train.run` from Python: objects for names, memory, threads, notebooks, sweeps."""

import asyncio
import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from cnn_jax import data, errors, losses, models, plan, runs, train
from cnn_jax.contracts import Batch, Evaluator, Outputs, Result, Sums
from cnn_jax.metrics import mean
from cnn_jax.objectives import Classification
from cnn_jax.runs import checkpoint, environment, workdir
from cnn_jax.train import programs
from cnn_jax.train.state import sha256
from tests import streams

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("run"), pytest.mark.usefixtures("shared_programs")]

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 4, 64)
NOISE = RANDOM.normal(40, 20, size=(64, 8, 8, 1))
IMAGES = (NOISE + 50 * LABELS[:, None, None, None]).clip(0, 255).astype(np.uint8)
SOURCE = data.from_arrays({"train": (IMAGES[:48], LABELS[:48]), "test": (IMAGES[48:], LABELS[48:])})


def config(**changes: Any) -> plan.Plan:
    """Returns a run of a small network: four epochs of five steps, validated after each."""
    values = {
        "model.name": "mlp",
        "model.widths": (8,),
        "data.image_size": 8,
        "train.batch_size": 8,
        "train.epochs": 4.0,
        "train.steps_per_call": 2,
        "log.every_steps": 5,
        "optim.momentum": 0.5,
        "data.train_split": "train[:40]",
        "data.validation_split": "train[40:]",
    }
    return plan.read({**values, **changes})


def run(*arguments: Any, **objects: Any) -> train.Outcome:
    return train.run(*arguments, source=SOURCE, progress=False, **objects)


def without_speed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    speed = ("images_per_second", "data_wait", "compile_seconds")
    return [{name: value for name, value in row.items() if name not in speed} for row in rows]


def test_a_run_in_memory_equals_one_in_a_directory(tmp_path: Path) -> None:
    there, here = run(config(), str(tmp_path / "run")), run(config())
    assert here == there
    assert without_speed(here.history) == without_speed(there.history)
    assert [row["split"] for row in here.history] == ["train", "validation"] * 4 + ["test", "final"]
    assert here.validation["top1"] == here.history[-3]["top1"]
    assert here.test["top1"] == here.history[-2]["top1"]
    jax.tree.map(np.testing.assert_array_equal, here.params, there.params)
    assert here.model == models.create("mlp", num_classes=4, widths=(8,))
    assert here.batch_stats == {}
    for outcome in (here, there):
        probabilities = outcome.predictor(IMAGES[48:]).probabilities
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
    assert not any(path.name == "runs" for path in tmp_path.iterdir())


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_outcome_and_its_predictor_can_be_sent_to_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(config(), None if in_memory else "run")
    monkeypatch.chdir("/")  # Another process may have another working directory.
    sent = pickle.loads(pickle.dumps(outcome))
    assert sent == outcome
    assert sent.model == outcome.model
    expected = outcome.predictor(IMAGES[:2]).logits  # Compiled functions cannot be pickled.
    for predictor in (sent.predictor, *map(pickle.loads, map(pickle.dumps, [outcome.predictor]))):
        np.testing.assert_array_equal(predictor(IMAGES[:2]).logits, expected)
    np.testing.assert_array_equal(copy.deepcopy(outcome.predictor)(IMAGES[:2]).logits, expected)


def test_the_predictor_has_the_best_validated_weights(tmp_path: Path) -> None:
    """The monitor prefers the highest loss, which is not that of the last validation."""
    worse = config(**{"eval.monitor": "loss", "eval.monitor_mode": "max"})
    there, here = run(worse, tmp_path), run(worse)
    ranked = [row["loss"] for row in here.history if row["split"] == "validation"]
    assert np.argmax(ranked) < 3
    for outcome in (here, there):
        found = outcome.predictor.variables["params"]
        best = checkpoint.best_step(tmp_path / workdir.CHECKPOINTS)
        assert best == 5 * (1 + np.argmax(ranked))
        assert sha256(found) != sha256(outcome.params)
    jax.tree.map(
        np.testing.assert_array_equal,
        here.predictor.variables["params"],
        there.predictor.variables["params"],
    )


def test_a_run_needs_neither_the_main_thread_nor_an_idle_event_loop(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    expected = run(config())
    outcomes: list[train.Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(config(), tmp_path / "thread")))
    thread.start()
    thread.join()

    async def cell() -> train.Outcome:
        return run(config(), tmp_path / "notebook")

    outcomes.append(asyncio.run(cell()))
    assert outcomes == [expected] * 2
    assert capfd.readouterr() == ("", "")


def test_a_watch_sees_every_row_and_stops_a_run_that_then_continues(tmp_path: Path) -> None:
    whole, seen = run(config()), []

    def watch(row: dict[str, Any]) -> bool:
        seen.append(row)
        return row["split"] == "validation" and row["step"] == 10

    stopped = run(config(), tmp_path, watch=watch)
    assert (stopped.step, stopped.signal, stopped.params_sha256) == (10, 0, "")
    assert seen == stopped.history
    assert [row["split"] for row in seen] == ["train", "validation"] * 2
    assert checkpoint.steps(tmp_path / workdir.CHECKPOINTS) == [5, 10]
    again = run(config(), tmp_path, watch=lambda row: None)
    assert again == whole
    assert without_speed(again.history) == without_speed(whole.history)


def test_a_sweep_over_rates_compiles_its_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_kept", [])
    traced = []
    original = Classification.loss

    def counted(self: Any, *arguments: Any) -> Any:
        traced.append(arguments)
        return original(self, *arguments)

    monkeypatch.setattr(Classification, "loss", counted)
    digests, counts = [], []
    for rate, schedule, epochs in (
        (0.1, "constant", 2.0),
        (0.05, "cosine", 2.0),
        (0.2, "step", 3.0),
    ):
        changes = {"optim.schedule.name": schedule, "train.epochs": epochs}
        digests.append(run(config(**{"optim.learning_rate": rate, **changes})).params_sha256)
        counts.append(len(traced))
    assert counts[0] == counts[1] == counts[2] > 0
    assert len(set(digests)) == 3
    assert len(programs._kept) == 1
    run(config(**{"optim.momentum": 0.6}))
    assert len(traced) > counts[0]


def test_shared_programs_change_no_bit() -> None:
    run(config(**{"optim.learning_rate": 0.3}))
    shared = run(config())
    programs._kept.clear()
    assert run(config()) == shared


def test_an_objective_and_an_evaluator_can_be_given(tmp_path: Path) -> None:
    def measure(outputs: Outputs, batch: Batch) -> Sums:
        values = jax.nn.softmax(outputs["logits"]).max(-1)
        return {"mean": ((values * batch["weight"]).sum(), batch["weight"].sum())}

    def finish(parts: Iterable[Sums], fitted: Any) -> Result:
        totals = [jax.device_get(part["mean"]) for part in parts]
        pair = tuple(float(sum(column)) for column in zip(*totals, strict=True))
        return Result(mean({"mean": (pair[0], pair[1])}))

    def loss(outputs: Outputs, batch: Batch) -> jax.Array:
        return 2 * losses.cross_entropy(outputs["logits"], batch["label"])

    objective = Classification(models.create("mlp", num_classes=4, widths=(8,)), loss)
    confidence = {"confidence": Evaluator(measure, finish, names=("mean",))}
    given = plan.read({**plan.to_dict(config()), "model": {}})
    doubled = run(given, tmp_path, objective=objective, evaluators=confidence)
    plain = run(config(**{"optim.learning_rate": 0.2}))
    assert doubled.params_sha256 == plain.params_sha256
    assert 0 < doubled.test["confidence/mean"] <= 1
    assert doubled.test["top1"] == plain.test["top1"]
    assert workdir.load_plan(tmp_path).train.objective == "given"
    with pytest.raises(errors.UserError, match=r"model\.name 'mlp' has no effect .*objective="):
        run(config(), objective=objective)
    with pytest.raises(errors.UserError, match=r"must be a contracts\.Objective.*method init"):
        run(given, objective="focal")
    with pytest.raises(errors.UserError, match="watch= must be a function of a row, got int"):
        run(given, watch=3)
    with pytest.raises(errors.UserError, match=r"train\.objective.*given.*objective="):
        run(workdir.load_plan(tmp_path), tmp_path)
    monitored = config(**{"eval.monitor": "confidence/mean"})
    assert "confidence/mean" in run(monitored, evaluators=confidence).validation
    with pytest.raises(errors.UserError, match=r"unknown eval\.monitor 'confidence/mean'"):
        run(monitored)


def test_an_optimizer_can_be_given(tmp_path: Path) -> None:
    named = run(config())
    given = optax.sgd(0.1, momentum=0.5)
    plain = config(**{"optim.momentum": plan.Optim().momentum})
    outcome = run(plain, tmp_path, optimizer=given)
    assert outcome.params_sha256 == named.params_sha256
    assert not any("learning_rate" in row for row in outcome.history)
    assert workdir.load_plan(tmp_path).optim == plan.Optim(name="given")
    assert run(plain, tmp_path, optimizer=given) == outcome
    with pytest.raises(errors.UserError, match="not of this model and optimizer"):
        run(plain, tmp_path, optimizer=optax.adam(0.1))
    with pytest.raises(errors.UserError, match=r"optim\.name is 'given'.*optimizer="):
        run(workdir.load_plan(tmp_path), tmp_path)
    with pytest.raises(errors.UserError, match=r"optim\.momentum 0\.5 has no effect"):
        run(config(), optimizer=given)


def test_a_network_of_the_user_is_checked_before_the_data_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_source(options: plan.Data) -> Any:
        raise AssertionError("data was read")

    monkeypatch.setattr(data, "open_source", open_source)
    values = {"model": {"name": "tests.toys:Wrong"}, "data": {"image_size": 8}}
    with pytest.raises(errors.UserError, match=r"logits have shape \[1, 2, 1\]"):
        train.run(values, progress=False)


def test_another_source_is_refused_when_a_run_continues(tmp_path: Path) -> None:
    run(config(), tmp_path)
    assert workdir.load_plan(tmp_path).data.source == "given"
    changed = data.from_arrays({"train": (IMAGES[1:49], LABELS[1:49]), "test": (IMAGES, LABELS)})
    with pytest.raises(errors.UserError, match="the data set has changed"):
        train.run(config(), tmp_path, source=changed, progress=False)
    with pytest.raises(errors.UserError, match=r"data\.source is 'given'.*source="):
        train.run(workdir.load_plan(tmp_path), tmp_path, progress=False)


def test_each_start_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config(), tmp_path)
    run(config(), tmp_path)
    starts = environment.read(tmp_path)
    assert len(starts) == 2
    for entry in starts:
        assert entry["directory"] == str(Path.cwd())
        assert entry["versions"]["jax"] == jax.__version__
        assert entry["hardware"]["devices"] == f"{jax.device_count()} cpu"
        assert "pytest" in entry["command"] or "python" in entry["command"]
    assert json.loads((tmp_path / "environment.json").read_text())["starts"] == starts
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(errors.UserError, match=r"environment\.json is damaged"):
        run(config(), tmp_path)


def test_the_logs_of_a_sweep_are_one_table(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        run(config(**{"optim.learning_rate": rate}), tmp_path / f"rate-{rate}")
    rows = runs.read(tmp_path)
    assert {(row["run"], row["optim.learning_rate"]) for row in rows} == {
        ("rate-0.1", 0.1),
        ("rate-0.2", 0.2),
    }
    assert "optim.momentum" not in rows[0]
    assert [row["split"] for row in rows].count("test") == 2
    one = runs.read(str(tmp_path / "rate-0.1"))
    assert {row["run"] for row in one} == {"."}
    assert "optim.learning_rate" not in one[-1]
    with pytest.raises(errors.UserError, match="has no run"):
        runs.read(tmp_path / "nothing")


def test_signals_stop_a_run_of_the_main_thread_only(tmp_path: Path) -> None:
    def interrupt(row: dict[str, Any]) -> None:
        if row["step"] == 5 and row["split"] == "train":
            signal.raise_signal(signal.SIGTERM)

    outcome = run(config(), tmp_path, watch=interrupt)
    assert outcome.signal == signal.SIGTERM
    assert outcome.step < 20
    assert run(config(), tmp_path) == run(config())


WATCHED = """
import sys
from cnn_jax.runtime import sharding
sharding.start()
import jax
from cnn_jax import plan, train
settings = plan.stored(open(sys.argv[1]).read())
def watch(row):
    return row["step"] == 4 and jax.process_index() == 0
print(train.run(settings, sys.argv[2], watch=watch, progress=False).step)
"""


@pytest.mark.slow
def test_the_watch_of_the_primary_process_stops_all_of_them(tmp_path: Path) -> None:
    settings = config(**{"data.source": "fake", "train.batch_size": 8, "log.every_steps": 2})
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict(settings)))
    words = [sys.executable, "-c", WATCHED, str(tmp_path / "plan.json"), str(tmp_path / "run")]
    processes = [
        subprocess.Popen(words, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
        for variables in streams.slurm(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [output.splitlines()[-1] for output in outputs] == ["4", "4"]
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [4]
