"""The log of a run: `metrics.jsonl`, TensorBoard events, `curves.png`, and the throughput."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from cnn_jax import errors, limits
from cnn_jax.runs import events, plots, workdir
from cnn_jax.runs.place import GrowingFile, Place
from cnn_jax.runtime import files

FINAL = "final"
ONCE = ("test", FINAL)  # splits of the last lines, which a resumed run writes again
START = "start"  # split of the first line of a run that extends another one
AVERAGE = "average/"  # prefix of the names of values of averaged weights

_MAX_STEP = 2**63  # of TensorBoard's events

Row = dict[str, Any]
"""A line of the log: `step`, `epoch`, `split`, and values by name."""


def make_row(step: int, epoch: float, split: str, values: Mapping[str, float | str]) -> Row:
    """Returns a line of the log.

    Args:
      step: the number of steps taken.
      epoch: the number of epochs taken.
      split: 'train', 'validation', 'test' or 'final'.
      values: values by name; accuracies are fractions.
    """
    return {"step": step, "epoch": round(epoch, 4), "split": split, **finite(values)}


def finite(values: Mapping[str, float | str]) -> dict[str, float | str | None]:
    """Returns values with None in place of infinity and NaN, because JSON has neither."""
    return {
        name: value if isinstance(value, str) or math.isfinite(value) else None
        for name, value in values.items()
    }


def values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a line of the log, without its place."""
    return {name: value for name, value in row.items() if name not in events.PLACE}


def of_weights(row: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Returns the values of a line that belong to the given weights, by name without prefix.

    Args:
      row: the line.
      weights: 'raw' or 'average', as in `eval.weights`.
    """
    is_average = weights == "average"
    return {
        name.removeprefix(AVERAGE): value
        for name, value in values(row).items()
        if name.startswith(AVERAGE) == is_average
    }


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

        Raises:
          UserError: a file cannot be read or written.
        """
        self._directory = directory
        path = directory / workdir.METRICS
        self.rows: list[Row] = [row for row in read(directory) if _is_kept(row, start_step)]
        files.write(path, "".join(map(_line, self.rows)))
        self._place = Place(path)
        self._file = GrowingFile(path)
        self._events = events.Events(directory, self.rows)

    def write(self, row: Row) -> None:
        """Appends a line, made by `make_row`, and hands it to the operating system.

        Raises:
          UserError: the work directory was deleted or moved, or cannot be written.
        """
        self._place.check()
        self.rows.append(row)
        self._file.write(_line(row).encode())
        self._events.write(row)

    def close(self) -> None:
        """Closes the files and draws the curves, or reports why they cannot be drawn.

        Raises:
          UserError: the work directory was deleted or moved, or cannot be written.
        """
        with contextlib.ExitStack() as stack:  # An error of one must not keep the other open.
            stack.callback(self._events.close)
            stack.callback(self._file.close)
        self._place.check()
        _draw(self.rows, self._directory)


def read(directory: Path) -> list[Row]:
    """Returns the lines of a run's `metrics.jsonl`, without an incomplete last line.

    Lines that are no lines of a log are reported and left out.

    Raises:
      UserError: the file cannot be read.
    """
    rows, _ = read_and_count(directory)
    return rows


def read_and_count(directory: Path) -> tuple[list[Row], int]:
    """Returns the lines that `read` returns, and the number of those that it leaves out.

    Raises:
      UserError: the file cannot be read.
    """
    path = directory / workdir.METRICS
    try:
        *lines, _ = files.read(path, limits.MAX_LOG_BYTES).split(b"\n")
    except FileNotFoundError:
        return [], 0
    rows = [_parse(line) for line in lines]
    foreign = [number for number, row in enumerate(rows, start=1) if row is None]
    if foreign:
        logging.error(
            "%s: no lines of the log, which are left out: %s", path, errors.listed(foreign)
        )
    return [row for row in rows if row is not None], len(foreign)


def joined(histories: Sequence[Sequence[Row]]) -> list[Row]:
    """Returns the lines of a run in phases, each with the number of its phase as 'phase'.

    Steps and epochs count from the start of the first phase.

    Args:
      histories: the lines of each phase.
    """
    rows: list[Row] = []
    step, epoch = 0, 0.0
    for number, history in enumerate(histories, start=1):
        for row in history:
            place = {"step": step + row["step"], "epoch": round(epoch + row["epoch"], 4)}
            rows.append({**row, **place, "phase": number})
        if rows:
            step, epoch = rows[-1]["step"], rows[-1]["epoch"]
    return rows


def read_phases(directory: Path, count: int) -> list[Row]:
    """Returns the lines of the first phases of a run, from their own logs; see `joined`.

    Args:
      directory: the work directory of the run.
      count: the number of phases.

    Raises:
      UserError: a file cannot be read.
    """
    return joined([read(workdir.phase(directory, number)) for number in range(1, count + 1)])


def join(directory: Path, count: int) -> None:
    """Writes `metrics.jsonl` and `curves.png` of a run in phases, from the logs of its phases.

    Args:
      directory: the work directory of the run.
      count: the number of phases to include.

    Raises:
      UserError: a file cannot be read or written.
    """
    rows = read_phases(directory, count)
    if rows:
        files.write(directory / workdir.METRICS, "".join(map(_line, rows)))
        _draw(rows, directory)


def _line(row: Row) -> str:
    """Returns the text of a line of `metrics.jsonl`."""
    return f"{json.dumps(row)}\n"


def _draw(rows: Sequence[Row], directory: Path) -> None:
    """Draws the curves of a run, or reports why they cannot be drawn: a plot costs no result."""
    try:
        plots.curves(rows, directory / workdir.CURVES)
    except errors.UserError as error:
        logging.error("%s", error)


def _is_kept(row: Row, start_step: int) -> bool:
    """Returns True for a line that a run which continues at `start_step` does not write again."""
    again = (*ONCE, START) if row["step"] == start_step else ONCE
    return row["step"] <= start_step and row["split"] not in again


def _parse(line: bytes) -> Row | None:
    """Returns the row in a line of `metrics.jsonl`; None if there is none."""
    try:
        row = json.loads(line, parse_constant=lambda _: None)
        step, epoch, split = (row[name] for name in events.PLACE)
        is_row = type(step) is int and 0 <= step < _MAX_STEP and isinstance(split, str)
        return row if is_row and is_number(epoch) and all(map(_is_value, row.values())) else None
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
        return None


def is_number(value: Any) -> bool:
    """Returns True for a finite number, as the values of a log are."""
    return type(value) in (int, float) and math.isfinite(value)


def _is_value(value: Any) -> bool:
    return value is None or isinstance(value, str) or is_number(value)


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
