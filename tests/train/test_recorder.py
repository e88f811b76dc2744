"""Tests of validation during a run: `eval.monitor` chooses the best checkpoint."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from cnn_jax import errors, evaluators, plan, train
from cnn_jax.contracts import Batch, Evaluator, Outputs, Result
from cnn_jax.runs import checkpoint, workdir
from cnn_jax.train import programs
from configs import quickstart

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("recorder"), pytest.mark.usefixtures("shared_programs")]

# Metrics of the validations after steps 6, 12 and 18, and of the test split after them.
LOSSES = (3.0, 1.0, 2.0, 5.0)
ACCURACIES = (0.3, 0.2, 0.1, 0.0)


def small(monitor: str, mode: str) -> ConfigDict:
    """Returns a run of three epochs of six steps that keeps one checkpoint beside the best."""
    config = quickstart.get_config("smoke")
    config.model.update(name="mlp", widths=(4,))
    config.data.update(image_size=8, crop_padding=0)
    config.train.update(steps=18, steps_per_call=6)
    config.eval.update(every_epochs=1.0, monitor=monitor, monitor_mode=mode)
    config.checkpoint.keep = 1
    return config


@pytest.fixture(autouse=True)
def own_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the programs of scripted evaluators from other tests."""
    monkeypatch.setattr(programs, "_kept", [])


def make_scripted(*_: Any, **__: Any) -> dict[str, Evaluator]:
    """Returns evaluators: one with the values of `LOSSES` and `ACCURACIES`, in order; two count."""
    remaining = iter(zip(LOSSES, ACCURACIES, strict=True))

    def measure(outputs: Outputs, batch: Batch) -> jax.Array:
        return batch["weight"].sum()

    def finish(parts: Iterable[Any], fitted: Any) -> Result:
        loss, top1 = next(remaining)
        return Result({"loss": loss, "top1": top1})

    def count(parts: Iterable[Any], fitted: Any) -> Result:
        return Result({"examples": total(parts)})

    def total(parts: Iterable[Any]) -> float:
        return float(sum(jax.device_get(list(parts))))

    def finish_fitted(parts: Iterable[Any], fitted: Any) -> Result:
        return Result({"examples": fitted})

    return {
        evaluators.MAIN: Evaluator(measure, finish, names=("loss", "top1")),
        "count": Evaluator(measure, count, names=("examples",)),
        "fitted": Evaluator(measure, finish_fitted, ("examples",), "validation", total),
    }


@pytest.mark.parametrize(
    ("monitor", "mode", "best"),
    [("loss", "auto", 12), ("top1", "max", 6), ("count/examples", "max", 18)],
)
def test_the_checkpoint_with_the_best_monitored_value_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monitor: str, mode: str, best: int
) -> None:
    monkeypatch.setattr(evaluators, "make", make_scripted)
    outcome = train.run(small(monitor, mode), tmp_path)
    expected = {"loss": 5.0, "top1": 0.0, "count/examples": 20.0, "fitted/examples": 16.0}
    assert outcome.test == expected
    checkpoints = tmp_path / workdir.CHECKPOINTS
    assert checkpoint.steps(checkpoints) == sorted({best, 18})
    assert checkpoint.choose(checkpoints, "best") == best
    rows = [json.loads(line) for line in (tmp_path / workdir.METRICS).read_text().splitlines()]
    validations = [row for row in rows if row["split"] == "validation"]
    assert [row["step"] for row in validations] == [6, 12, 18]
    assert [row["loss"] for row in validations] == list(LOSSES[:3])
    assert [row["count/examples"] for row in validations] == [16.0] * 3
    # An evaluator with `fit` runs once, at the end, and cannot choose the best checkpoint.
    assert not any("fitted/examples" in row for row in validations)


def test_an_evaluator_with_fit_cannot_be_monitored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "make", make_scripted)
    with pytest.raises(errors.UserError, match=r"eval\.monitor 'fitted/examples'"):
        train.check(plan.read(small("fitted/examples", "max")))


@pytest.mark.parametrize(("monitor", "mode"), [("loss", "max"), ("top1", "min")])
def test_another_monitor_is_refused_when_a_run_continues(
    tmp_path: Path, monitor: str, mode: str
) -> None:
    workdir.save_plan(tmp_path, plan.read(small("top1", "max")))
    with pytest.raises(errors.UserError, match="another config") as caught:
        train.run(small(monitor, mode), tmp_path)
    key = "eval.monitor" if monitor != "top1" else "eval.monitor_mode"
    assert f"  {key}: " in str(caught.value)
