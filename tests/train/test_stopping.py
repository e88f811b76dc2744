"""Tests of runs whose validations lower the learning rate or end them early."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from cnn_jax import errors, evaluators, main, plan, train
from cnn_jax.contracts import Batch, Evaluator, Outputs, Result
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.train import loop, programs
from configs import quickstart

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("recorder"), pytest.mark.usefixtures("shared_programs")]

EPOCH = 6  # steps
RATE = 0.0625


def small(epochs: int, **schedule: Any) -> ConfigDict:
    """Returns a run of some epochs, with a validation after each."""
    config = quickstart.get_config("smoke")
    config.model.update(name="mlp", widths=(4,))
    config.data.update(image_size=8, crop_padding=0)
    config.train.update(steps=epochs * EPOCH, steps_per_call=EPOCH)
    config.optim.learning_rate = RATE
    config.optim.schedule.update(**{"name": "constant", **schedule})
    config.eval.every_epochs = 1.0
    config.log.every_steps = 4
    config.checkpoint.keep = 1
    return config


@pytest.fixture(scope="module", autouse=True)
def own_programs() -> Iterator[None]:
    """Keeps the programs of scripted evaluators from other test files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_kept", [])
        yield


def script(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """Gives the validations of the next runs, and at their end the test, these accuracies."""
    remaining = iter(values)

    def measure(outputs: Outputs, batch: Batch) -> jax.Array:
        return batch["weight"].sum()

    def finish(parts: Iterable[Any], fitted: Any) -> Result:
        return Result({"top1": next(remaining)})

    made = {evaluators.MAIN: Evaluator(measure, finish, names=("top1",))}
    monkeypatch.setattr(evaluators, "make", lambda *_, **__: made)


def stops_at(step: int) -> Callable[[logs.Row], bool]:
    """Returns a function that stops a run at the first line of a step or a later one."""
    return lambda row: bool(row["step"] >= step)


def rates(rows: Sequence[logs.Row]) -> dict[int, float]:
    return {row["step"]: row["learning_rate"] for row in rows if row["split"] == "train"}


def test_a_plateau_takes_the_steps_of_a_schedule_with_its_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [0.5, 0.4, 0.5, 0.6, 0.6, 0.6, 0.0]
    script(monkeypatch, values)
    config = small(6, name="plateau", patience=1, decay_factor=0.5)
    plateau = train.run(config, progress=False)
    script(monkeypatch, values)
    for step in (12, 20, 36):  # before and after the validation that lowers the rate
        parts = train.run(config, tmp_path, watch=stops_at(step), progress=False)
        assert parts.step >= step
    assert parts.params_sha256 == plateau.params_sha256
    assert rates(parts.history) == rates(plateau.history)
    script(monkeypatch, [0.0] * 7)
    stepped = train.run(
        small(6, name="step", boundary_epochs=(3.0,), decay_factor=0.5), progress=False
    )
    assert rates(plateau.history) == rates(stepped.history)
    assert set(rates(plateau.history).values()) == {RATE, RATE / 2}
    assert plateau.params_sha256 == stepped.params_sha256
    assert (plateau.early, plateau.best_step) == (parts.early, parts.best_step) == (False, 36)


def test_early_stopping_keeps_the_best_checkpoint_and_says_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(9)
    config.eval.patience = 3
    script(monkeypatch, [0.5, 0.75, 0.7, 0.75, 0.6, 0.25])
    outcome = train.run(config, tmp_path)
    assert (outcome.step, outcome.early, outcome.best_step) == (30, True, 24)
    assert outcome.signal == 0
    assert outcome.test == {"top1": 0.25}
    assert [(row["step"], row["split"]) for row in outcome.history[-4:]] == [
        *((30, "validation"), (30, "train"), (30, "test"), (30, "final")),
    ]
    checkpoints = tmp_path / workdir.CHECKPOINTS
    assert checkpoint.steps(checkpoints) == [24, 30]
    assert checkpoint.choose(checkpoints, "best") == 24
    assert (
        "early stopping at step 30: no better top1 in 3 validations; the best is that of step 24"
        in capsys.readouterr().err
    )
    main._report(outcome, tmp_path)
    assert "early stopping at step 30; the best checkpoint is that of step 24" in (
        capsys.readouterr().out
    )

    # A process that was killed before the last lines takes no further step.
    def take(*_: Any) -> Any:
        raise AssertionError("a step was taken")

    before = logs.read(tmp_path)
    script(monkeypatch, [0.25])
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", take)
        assert train.run(config, tmp_path) == outcome
    assert logs.read(tmp_path) == before
    assert "the run is complete at step 30 of 54, where it was stopped early" in (
        capsys.readouterr().err
    )

    # The run can be extended: early stopping counts anew.
    config.init.extend = str(tmp_path)
    script(monkeypatch, [0.1, 0.2, 0.3, 0.3, 0.0])
    longer = train.run(config, tmp_path.with_name("longer"), progress=False)
    assert (longer.step, longer.early, longer.best_step) == (54, False, 54)


def test_a_run_that_ends_anyway_does_not_stop_early(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = small(2, name="plateau", patience=0)
    config.eval.patience = 1
    script(monkeypatch, [0.5, 0.4, 0.0])
    outcome = train.run(config)
    assert (outcome.step, outcome.early, outcome.best_step) == (12, False, 6)
    assert [row["split"] for row in outcome.history if row["step"] == 12] == [
        *("train", "validation", "test", "final"),
    ]
    shown = capsys.readouterr().err
    assert "early stopping" not in shown
    assert "multiplied" not in shown
    assert [record.message for record in caplog.records] == [
        "eval.patience 1 cannot stop a run of 2 validations early; lower it or eval.every_epochs",
        "optim.schedule.patience 0 cannot lower the rate in a run of 2 validations; lower it or "
        "eval.every_epochs",
    ]


def test_the_interval_of_validations_cannot_change_where_they_decide(tmp_path: Path) -> None:
    config = small(3)
    config.eval.patience = 1
    workdir.save_plan(tmp_path, plan.read(config))
    config.eval.every_epochs = 0.5
    with pytest.raises(errors.UserError, match=r"eval\.every_epochs: 1\.0 there, 0\.5 now"):
        train.run(config, tmp_path)
    config.eval.update(every_epochs=1.0, patience=0)
    with pytest.raises(errors.UserError, match=r"eval\.patience: 1 there, 0 now"):
        train.run(config, tmp_path)
