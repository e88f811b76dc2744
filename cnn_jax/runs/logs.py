"""What a run tells: `metrics.jsonl`, TensorBoard events, `curves.png`."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from cnn_jax.runs import plots, workdir

FINAL = "final"
ONCE = ("test", FINAL)  # lines that are written when the run has ended, and again if it is resumed


class RunLog:
    """One line per event in `metrics.jsonl` and the same numbers for TensorBoard."""

    def __init__(self, directory: Path, start_step: int) -> None:
        """Continue the log of a run at `start_step`; what came later is dropped, to come again.

        Args:
          directory: the work directory.
          start_step: the step of the checkpoint that the run goes on from.
        """
        self._directory = directory
        path = directory / workdir.METRICS
        kept = [
            row for row in read(directory) if row["step"] <= start_step and row["split"] not in ONCE
        ]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in kept))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._events = SummaryWriter(str(directory), purge_step=start_step + 1)

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float | str]) -> None:
        """Add a line; it is on its way to the disk when this returns.

        Args:
          step: how many steps were taken.
          epoch: the same in epochs.
          split: 'train', 'validation', 'test' or 'final'.
          values: by name; accuracies as fractions. What is not finite is written as null.
        """
        # JSON has no word for a loss beyond all numbers.
        known = {
            k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in values.items()
        }
        row = {"step": step, "epoch": round(epoch, 4), "split": split, **known}
        self._file.write(f"{json.dumps(row)}\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, str):
                self._events.add_text(f"{split}/{name}", value, step)
            elif math.isfinite(value):
                self._events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush everything and draw the curves."""
        self._file.close()
        self._events.close()
        plots.curves(read(self._directory), self._directory / workdir.CURVES)


def read(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; one that a kill cut short is left out."""
    path = directory / workdir.METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


class Throughput:
    """Images per second of training, without what happens in between."""

    def __init__(self) -> None:
        """The clock stands still until `resume`."""
        self._images = 0
        self._seconds = 0.0
        self._since: float | None = None

    def resume(self) -> None:
        """Let the clock run."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def add(self, images: int) -> None:
        """Count the images of a step, if the clock runs."""
        if self._since is not None:
            self._images += images

    def rate(self) -> dict[str, float]:
        """`images_per_second` since the last call, nothing where none were counted."""
        self.pause()
        images, seconds = self._images, self._seconds
        self._images, self._seconds = 0, 0.0
        return {"images_per_second": images / seconds} if images else {}
