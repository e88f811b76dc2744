"""Training of a run, as its work directory records it: command, config, results, versions."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_jax import plan
from cnn_jax.plan import Plan
from cnn_jax.runs import checkpoint, environment, logs, workdir

_SPLITS = ("validation", "test", "final")


@dataclasses.dataclass(frozen=True)
class History:
    """Training that led to a checkpoint.

    Attributes:
      step: the step of the checkpoint.
      weights: 'raw' or 'average'.
      command: the command of the run's last start; empty for runs before version 0.2.0.
      versions: of packages, in the run's last start; empty likewise.
      config: the config keys that differ from the defaults, by path.
      rows: the lines of the log on the checkpoint: of its validation, and of the test.
      finished: False if the log has no final line, so that the training may go on.
    """

    step: int
    weights: str
    command: str
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    finished: bool


def read(directory: Path, which: str | None = None, average: bool | None = None) -> History:
    """Returns the training of a run.

    Args:
      directory: the work directory; of a run in phases, the last phase counts.
      which: the checkpoint: 'best' (default), 'last' or a step.
      average: True for the average of the weights, False for the raw ones; None as `eval.weights`
        of the run says.

    Raises:
      UserError: there is no such run or checkpoint, or a file is damaged.
    """
    directory = workdir.last_phase(directory)
    stored = workdir.load_plan(directory)
    step = checkpoint.choose(directory / workdir.CHECKPOINTS, which or "best")
    starts = environment.read(directory)
    last = starts[-1] if starts else {}
    rows = logs.read(directory)
    changed = plan.differences(Plan(), stored)
    versions = last.get("versions")
    return History(
        step=step,
        weights=stored.eval.weights if average is None else ("average" if average else "raw"),
        command=str(last.get("command", "")),
        versions=versions if isinstance(versions, dict) else {},
        config={path: value for path, (_, value) in changed.items()},
        rows=tuple(row for row in rows if row["split"] in _SPLITS and row["step"] == step),
        finished=any(row["split"] == logs.FINAL for row in rows),
    )
