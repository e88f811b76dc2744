"""Tests of the training loop: the grouping of steps into calls changes only the speed."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from cnn_jax import data, plan, train
from cnn_jax.runs import checkpoint
from cnn_jax.train import job
from configs import quickstart

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]


def small() -> ConfigDict:
    """Returns a run of fourteen steps, six an epoch.

    No action is due at the last step of a call of four.
    """
    config = quickstart.get_config("smoke")
    config.model.update(name="mlp", widths=(4,), dropout_rate=0.5)
    config.train.update(steps=14, steps_per_call=4)
    config.log.every_steps = 5
    config.eval.every_epochs = 1.0
    config.checkpoint.update(every_steps=7, keep=10)
    return config


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_speed(workdir: Path) -> list[dict[str, Any]]:
    speed = ("images_per_second", "data_wait", "compile_seconds")
    return [{k: v for k, v in row.items() if k not in speed} for row in rows(workdir)]


def single_steps(self: job.Job, start: int) -> Iterator[range]:
    return (range(step, step + 1) for step in range(start, self.total_steps))


def test_a_call_ends_where_an_action_is_due_and_takes_at_most_steps_per_call() -> None:
    options = plan.read(small())
    parts = job.make(options, data.open_source(options.data))
    calls = list(parts.calls(1))
    # Log 5, 10; epochs 6, 12; checkpoints 7, 14; validation 6, 12.
    assert [call.stop for call in calls] == [5, 6, 7, 10, 12, 14]
    assert [step for call in calls for step in call] == list(range(1, 14))
    shorter = dataclasses.replace(options.train, steps_per_call=2)
    parts = dataclasses.replace(parts, plan=dataclasses.replace(options, train=shorter))
    assert [len(call) for call in parts.calls(0)] == [2, 2, 1, 1, 1, 2, 1, 2, 2]


def test_logs_and_checkpoints_do_not_depend_on_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped, single = tmp_path / "grouped", tmp_path / "single"
    outcome = train.run(small(), grouped)
    with monkeypatch.context() as patch:
        patch.setattr(job.Job, "calls", single_steps)
        assert train.run(small(), single) == outcome
    assert without_speed(grouped) == without_speed(single)
    steps = [row["step"] for row in rows(grouped) if row["split"] == "train"]
    assert steps == [5, 10, 14]
    saved = [checkpoint.steps(workdir / "checkpoints") for workdir in (grouped, single)]
    assert saved == [[6, 7, 12, 14]] * 2


def test_the_first_line_of_the_log_has_the_time_of_compilation(trained: Path) -> None:
    train_rows = [row for row in rows(trained) if row["split"] == "train"]
    assert train_rows[0]["compile_seconds"] > 0
    assert [row["step"] for row in rows(trained) if "compile_seconds" in row] == [50]
