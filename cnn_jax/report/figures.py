"""The final figures and the curves of a run, from the files of its work directory."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_jax import errors, evaluators, plan
from cnn_jax.plan import Plan
from cnn_jax.report import stored
from cnn_jax.report.stored import Missing, Stored
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runs.logs import Row


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run with its figures.

    Attributes:
      files: the content of its work directory.
      parameters: the number of trained values; None without a readable checkpoint.
      missing: what is missing or damaged, also in `files`.
    """

    files: Stored
    parameters: int | None
    missing: tuple[Missing, ...]

    @property
    def plan(self) -> Plan | None:
        """The config; None if it is missing or damaged."""
        return self.files.settings

    @property
    def prefix(self) -> str:
        """Prefix of the names of the metrics that rank checkpoints, in the log."""
        averaged = self.plan is not None and self.plan.eval.weights == "average"
        return logs.AVERAGE if averaged else ""

    @property
    def last_phase(self) -> list[Row]:
        """The lines of the last phase of the config; all lines of a run without phases."""
        count = len(self.plan.phases) if self.plan is not None else 0
        return [row for row in self.files.rows if row.get("phase", count) == count]

    @property
    def final(self) -> Row | None:
        """The last line of a complete run; None for an unfinished one."""
        return next((row for row in self.last_phase[::-1] if row["split"] == logs.FINAL), None)

    @property
    def state(self) -> str:
        """The state of the run: 'complete', 'unfinished' or 'no log'."""
        if not self.files.rows:
            return "no log"
        return "complete" if self.final is not None else "unfinished"

    def values(self, split: str) -> dict[str, float]:
        """Returns the metrics of the last line of a split by name; empty if there is none.

        Those of averaged weights come without their prefix, if these weights rank checkpoints. The
        line of a split that is measured once, such as 'test', is that of the complete run.

        Args:
          split: 'train', 'validation' or 'test'.
        """
        if split in logs.ONCE and self.final is None:
            return {}
        found = [row for row in self.last_phase if row["split"] == split]
        return self.metrics(found[-1]) if found else {}

    def metrics(self, row: Row) -> dict[str, float]:
        """Returns the numbers of a line by name, of the weights that rank checkpoints."""
        averaged = _numbers(logs.of_weights(row, "average")) if self.prefix else {}
        return averaged or _numbers(logs.of_weights(row, "raw"))

    def best_validation(self) -> tuple[float, int] | None:
        """Returns the best monitored value of a validation and its step; None without any."""
        if self.plan is None:
            return None
        options = self.plan.eval
        is_low = evaluators.monitor_mode(options.monitor, options.monitor_mode) == "min"
        sign = -1 if is_low else 1
        found = [
            (sign * self.metrics(row)[options.monitor], row["step"])
            for row in self.last_phase
            if row["split"] == "validation" and options.monitor in self.metrics(row)
        ]
        if not found:
            return None
        value, step = max(found)
        return sign * value, step

    def curve(self, split: str, name: str, place: str = "step") -> tuple[list[float], list[float]]:
        """Returns the points of a metric over steps or epochs; NaN for values that are not finite.

        Args:
          split: 'train' or 'validation'.
          name: the metric; of validations that of the weights that rank checkpoints.
          place: 'step' or 'epoch'.
        """
        x, y = [], []
        for row in self.files.rows:
            full = f"{self.prefix}{name}"
            known = full if full in row else name
            if row["split"] == split and known in row:
                x.append(float(row[place]))
                y.append(float(row[known]) if logs.is_number(row[known]) else math.nan)
        return x, y

    def training_seconds(self) -> float | None:
        """Returns the seconds of training steps and of their compilation; None if they are unknown.

        They follow from the logged rates. Validations and checkpoints are not included.
        """
        if self.plan is None:
            return None
        sizes = [each.train.batch_size for each in plan.phases(self.plan)]
        seconds, before = 0.0, 0
        for row in self.files.rows:
            rate = row.get("images_per_second")
            if row["split"] != "train" or rate is None or not logs.is_number(rate) or rate <= 0:
                continue
            size = sizes[row["phase"] - 1] if _has_phase(row, sizes) else self.plan.train.batch_size
            compiled = row.get("compile_seconds")
            seconds += (row["step"] - before) * size / rate
            seconds += compiled if logs.is_number(compiled) else 0.0
            before = row["step"]
        return seconds if 0 < seconds < math.inf else None


def read(directory: Path) -> Run:
    """Returns the run in a work directory of any version of cnn_jax.

    What is missing or damaged is named in the result; a directory without a run has nothing else.

    Raises:
      UserError: there is no such directory.
    """
    if not directory.is_dir():
        raise errors.UserError(f"there is no directory {directory}; check --workdir")
    try:
        found = stored.read(directory)
    except errors.UserError as error:
        return Run(Stored(directory, directory), None, (Missing("all files", str(error)),))
    missing = list(found.missing)
    parameters = None
    if found.steps:
        checkpoints, step = found.last / workdir.CHECKPOINTS, found.steps[-1]
        parameters = stored.attempt(
            missing, "parameters", lambda: checkpoint.num_parameters(checkpoints, step)
        )
    if found.damaged_lines:
        reason = f"damaged lines are left out: {found.damaged_lines:,}"
        missing.append(Missing(workdir.METRICS, reason))
    return Run(found, parameters, tuple(missing))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if logs.is_number(value)}


def _has_phase(row: Row, sizes: list[int]) -> bool:
    return type(row.get("phase")) is int and 0 < row["phase"] <= len(sizes)
