"""Tests of runs that keep an average of their weights: log, ranking, use, resuming, extension."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import data, errors, evaluate, plan, predict, predictor, train
from cnn_jax.evaluators import of_run
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import job, state
from cnn_jax.train.given import Given

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("average"), pytest.mark.usefixtures("shared_programs")]

ROOT = Path(__file__).parents[2]
DEVICES = 8
STEPS, HALF = 12, 7
LABELS = np.arange(44) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (44, 8, 8, 1), dtype=np.uint8)
SOURCE = data.from_arrays({"train": (IMAGES, LABELS), "test": (IMAGES[:8], LABELS[:8])})


def config(**changes: Any) -> plan.Plan:
    values = {
        "model.name": "tests.toys:Normalised",
        "data.image_size": 8,
        "data.train_split": "train[:32]",
        "data.validation_split": "train[32:]",
        "optim.learning_rate": 0.03,
        "ema.decay": 0.75,
        "ema.every_steps": 2,
        "eval.weights": "average",
        "eval.monitor": "loss",
        "train.batch_size": 8,
        "train.steps": STEPS,
        "train.steps_per_call": 2,
        "log.every_steps": 3,
        "checkpoint.keep": STEPS,
        "checkpoint.every_steps": 2,
    }
    return plan.read({**values, **changes})


def run(directory: Path | None, **changes: Any) -> train.Outcome:
    return train.run(config(**changes), directory, source=SOURCE, progress=False)


def rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the lines of the log, without measured times."""
    times = ("images_per_second", "data_wait", "compile_seconds")
    return [
        {name: value for name, value in row.items() if name not in times}
        for row in logs.read(directory)
    ]


def states(directory: Path) -> dict[int, Any]:
    """Returns the whole state in each checkpoint."""
    parts = job.make(config(), SOURCE, None, Given(SOURCE))
    like = state.abstract(parts.objective, parts.optimizer, (8, 8, 1), parts.layout)
    found = directory / workdir.CHECKPOINTS
    return {step: checkpoint.restore(found, step, like).state for step in checkpoint.steps(found)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a whole run with a checkpoint of every second step."""
    directory = tmp_path_factory.mktemp("average") / "run"
    outcome = run(directory)
    assert outcome.step == STEPS
    return directory


def test_checkpoints_hold_the_average_of_parameters_and_statistics(whole: Path) -> None:
    found = states(whole)
    assert sorted(found) == list(range(2, STEPS + 1, 2))
    for step in range(4, STEPS + 1, 2):
        before, after = found[step - 2].extra["average"], found[step]
        assert jax.tree.leaves(after.batch_stats)
        jax.tree.map(
            lambda old, new, raw: np.testing.assert_allclose(
                new, old + 0.25 * (raw - old), rtol=1e-6, atol=1e-7
            ),
            before,
            after.extra["average"],
            after.variables,
        )


def test_both_weights_are_validated_and_the_average_ranks(whole: Path) -> None:
    directory = whole / workdir.CHECKPOINTS
    content = rows(whole)
    validations = [row for row in content if row["split"] == "validation"]
    assert [row["step"] for row in validations] == [4, 8, 12]
    names = {"loss", "top1", "average/loss", "average/top1"}
    assert all(names <= row.keys() for row in validations)
    (test,) = (row for row in content if row["split"] == "test")
    assert names <= test.keys()
    best = min(validations, key=lambda row: row["average/loss"])["step"]
    assert best != min(validations, key=lambda row: row["loss"])["step"]
    assert checkpoint.choose(directory, "best") == best
    assert run(None).predictor.variables["params"].keys() == {"Dense_0", "BatchNorm_0"}


def test_every_reader_takes_the_average_unless_it_is_told_otherwise(
    whole: Path,
    exit_status: Callable[..., int | str | None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    found = states(whole)[STEPS]
    averages, raw = found.extra["average"], found.variables
    equal = np.testing.assert_array_equal
    jax.tree.map(equal, predictor.restore(whole, "last").variables, averages)
    jax.tree.map(equal, predictor.load(whole, "last", average=False).variables, raw)
    assert predictor.load(whole, "last").notes == ("weights: average, ema.decay 0.75",)
    outcome = run(whole)  # It is complete, so it only opens the predictor.
    best = predictor.load(whole).variables
    jax.tree.map(equal, outcome.predictor.variables, best)
    jax.tree.map(equal, outcome.params, raw["params"])
    (test,) = (row for row in rows(whole) if row["split"] == "test")
    for average, prefix, name in ((None, "average/", "last"), (False, "", "last-raw")):
        result = of_run.run(whole, "test", "last", source=SOURCE, average=average)
        assert result.values["loss"] == pytest.approx(test[f"{prefix}loss"], rel=1e-6)
        assert result.path.name == f"evaluation-test-{name}.json"
        words = json.loads(result.path.read_text())["weights"]
        assert words == ("raw, not the average" if prefix == "" else "average, ema.decay 0.75")
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.fromarray(IMAGES[0, ..., 0]).save(picture)
    assert exit_status(predict.main, f"--workdir={whole}", "--no-average", str(picture)) == 0
    assert "weights: raw, not the average" in capsys.readouterr().err


def test_the_memory_keeps_the_best_average(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = predictor.load(whole)
    kept = train.run(config(), source=SOURCE).predictor
    assert re.search(r"ranked weights +average, ema.decay 0.75\n", capsys.readouterr().err)
    jax.tree.map(np.testing.assert_array_equal, kept.variables, best.variables)
    assert kept.notes == best.notes == ("weights: average, ema.decay 0.75",)


def check_equal(directory: Path, whole: Path, log: Sequence[dict[str, Any]]) -> None:
    """Checks that the last state and the log equal those of a whole run."""
    ends = (states(each)[STEPS] for each in (directory, whole))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert log == rows(whole)[-len(log) :]


@pytest.mark.slow
def test_a_run_that_is_stopped_after_every_call_ends_with_the_same_bits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "requested", lambda self: True)
        while run(tmp_path).step < STEPS:
            pass
    check_equal(tmp_path, whole, rows(tmp_path))
    assert len(rows(tmp_path)) == len(rows(whole))


@pytest.mark.slow
def test_an_extended_run_goes_on_with_the_average(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "old", **{"train.steps": HALF})
    run(tmp_path / "new", **{"init.extend": str(tmp_path / "old")})
    log = [row for row in rows(tmp_path / "new")[1:] if row["step"] > HALF + 2]
    check_equal(tmp_path / "new", whole, log)


def compare_on_devices(directory: str) -> None:
    """Trains on the devices of this process in one run and in two, and compares them."""
    assert jax.device_count() == DEVICES
    whole, parts = (Path(directory, name) for name in ("whole", "parts"))
    run(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Interruption, "requested", lambda self: True)
        assert run(parts).step < STEPS
    run(parts)
    check_equal(parts, whole, rows(parts))


@pytest.mark.slow
def test_eight_devices_keep_the_average_too(whole: Path, tmp_path: Path) -> None:
    code = (
        f"from tests.train import test_average as test; test.compare_on_devices({str(tmp_path)!r})"
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    one, eight = (states(each)[STEPS].extra["average"] for each in (whole, tmp_path / "whole"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, eight)


def test_an_average_that_does_not_exist_is_refused(
    whole: Path,
    tmp_path: Path,
    exit_status: Callable[..., int | str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    without = {"ema.decay": 0.0, "eval.weights": "raw"}
    workdir.save_plan(tmp_path, config(**without))
    workdir.save_description(tmp_path, workdir.load_description(whole))
    message = "has no average of the weights: its ema.decay is 0; leave out --average"
    with pytest.raises(errors.UserError, match=message):
        predictor.load(tmp_path, average=True)
    assert exit_status(evaluate.main, f"--workdir={tmp_path}", "--average") == 1
    assert message in capsys.readouterr().err
    assert exit_status(predict.main, "--model=resnet50", "--average", "picture.png") == 1
    assert "--average is for --workdir" in capsys.readouterr().err
    with pytest.raises(errors.UserError, match="'average' needs an average"):
        train.check(config(**{"ema.decay": 0.0}))
