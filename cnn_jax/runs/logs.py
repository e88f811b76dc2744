"""The log of a run: `metrics.jsonl`, TensorBoard events, `curves.png`, and the throughput."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_jax.runs import plots, workdir

FINAL = "final"
ONCE = ("test", FINAL)  # splits of the last lines, which a resumed run writes again

_PLACE = ("step", "epoch", "split")

Row = dict[str, Any]
"""A line of the log: `step`, `epoch`, `split`, and values by name."""


def make_row(step: int, epoch: float, split: str, values: Mapping[str, float | str]) -> Row:
    """Returns a line of the log.

    Args:
      step: the number of steps taken.
      epoch: the number of epochs taken.
      split: 'train', 'validation', 'test' or 'final'.
      values: values by name; accuracies are fractions. Infinity and NaN become None, because JSON
        has neither.
    """
    known = {k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in values.items()}
    return {"step": step, "epoch": round(epoch, 4), "split": split, **known}


def values(row: Row) -> dict[str, Any]:
    """Returns the values of a line of the log, without its place."""
    return {name: value for name, value in row.items() if name not in _PLACE}


class MemoryLog:
    """Log in memory.

    Attributes:
      rows: all lines.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self.rows: list[Row] = []

    def write(self, row: Row) -> None:
        """Appends a line."""
        self.rows.append(row)

    def close(self) -> None:
        """Does nothing; there are no files."""


class RunLog:
    """Writer of `metrics.jsonl`, one line per event, and of the same numbers for TensorBoard.

    Attributes:
      rows: all lines of the run, with those of earlier starts.
    """

    def __init__(self, directory: Path, start_step: int) -> None:
        """Continues the log of a run at `start_step` and removes the lines after that step.

        Args:
          directory: the work directory.
          start_step: the step of the checkpoint that the run continues from.
        """
        from tensorboardX import SummaryWriter  # It takes half a second to import.

        self._directory = directory
        path = directory / workdir.METRICS
        self.rows: list[Row] = [
            row for row in read(directory) if row["step"] <= start_step and row["split"] not in ONCE
        ]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in self.rows))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._events = SummaryWriter(str(directory), purge_step=start_step + 1)

    def write(self, row: Row) -> None:
        """Appends a line, made by `make_row`, and flushes it to the operating system."""
        self.rows.append(row)
        self._file.write(f"{json.dumps(row)}\n")
        self._file.flush()
        step, split = row["step"], row["split"]
        for name, value in values(row).items():
            if isinstance(value, str):
                self._events.add_text(f"{split}/{name}", value, step)
            elif value is not None:
                self._events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flushes everything and draws the curves."""
        self._file.close()
        self._events.close()
        plots.curves(read(self._directory), self._directory / workdir.CURVES)


def read(directory: Path) -> list[Row]:
    """Returns the lines of a run's `metrics.jsonl`, without an incomplete last line."""
    path = directory / workdir.METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


class Throughput:
    """Images per second of training, without the time of validations and checkpoints."""

    def __init__(self) -> None:
        """Starts with the clock stopped."""
        self._images = 0
        self._seconds = 0.0
        self._since: float | None = None

    def resume(self) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops the clock."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def add(self, images: int) -> None:
        """Adds the images of a step, if the clock runs."""
        if self._since is not None:
            self._images += images

    def rate(self, waited: float = 0.0) -> dict[str, float]:
        """Returns `images_per_second` and `data_wait` since the last call.

        Args:
          waited: the seconds of that time in which the devices waited for data.

        Returns:
          The rate, and the share of the time that was waiting; empty if no images were counted.
        """
        self.pause()
        images, seconds = self._images, self._seconds
        self._images, self._seconds = 0, 0.0
        if not images:
            return {}
        return {"images_per_second": images / seconds, "data_wait": min(waited / seconds, 1.0)}
