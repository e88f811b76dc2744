"""Sums of the training metrics over the steps between two lines of the log."""

import jax
import numpy as np

from cnn_jax import errors, metrics
from cnn_jax.contracts import Sums
from cnn_jax.train import finite


class Window:
    """The metrics of the steps since the last log line; they stay on the devices until read."""

    def __init__(self, pending: metrics.Totals | None = None) -> None:
        """Starts with the metrics of earlier steps, as a checkpoint holds them."""
        self._totals: metrics.Totals = dict(pending or {})
        self._parts: list[tuple[range, Sums]] = []

    def add(self, call: range, sums: Sums) -> None:
        """Adds the metrics of one call of the compiled steps, without waiting for the devices.

        Args:
          call: the range of the call's steps, counted from 0 at the start of the run.
          sums: metrics with a leading axis, one entry per step of the call; further entries are
            ignored.
        """
        self._parts.append((call, sums))

    def totals(self) -> metrics.Totals:
        """Waits for the devices and returns the sums and counts since the last `clear`.

        Raises:
          DivergedError: a metric or a part of the state is not finite. The message names the first
            step at which one is not.
          UserError: no image of a batch can be read.
        """
        for call, stacked in jax.device_get(self._parts):
            for index, step in enumerate(call):
                sums = {name: (value[index], n[index]) for name, (value, n) in stacked.items()}
                _check_finite(step + 1, sums)
                _check_readable(step, sums)
                self._totals = metrics.add([self._totals, finite.metrics(sums)])
        self._parts = []
        return self._totals

    def clear(self) -> None:
        """Starts a new line of the log."""
        self._totals, self._parts = {}, []


def _check_finite(step: int, sums: Sums) -> None:
    infinite = [name for name, (value, _) in sums.items() if not np.isfinite(value)]
    if infinite:
        raise errors.DivergedError(
            f"{', '.join(infinite)} at step {step} is not finite: the run has diverged. The last "
            "good checkpoint is kept. Try a lower optim.learning_rate, a longer "
            "optim.schedule.warmup_epochs or optim.clip_norm=1, in a new --workdir"
        )


def _check_readable(step: int, sums: Sums) -> None:
    if "loss" in sums and not sums["loss"][1]:
        raise errors.UserError(f"no image of the batch of step {step} can be read")
