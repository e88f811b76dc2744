"""Metrics as pairs of a sum and a count: added over batches, divided once, when shown."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors, losses
from cnn_jax.runtime import sharding

Sums = Mapping[str, tuple[jax.Array, jax.Array]]
Totals = dict[str, tuple[float, float]]

TOP5_MIN_CLASSES = 6  # with five classes or fewer every prediction is among the top five


def classification(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Sums:
    """Loss, top-1 and, where there are more than five classes, top-5 accuracy of a batch.

    Args:
      logits: `[B, K]`.
      labels: `[B]` int32.
      weight: `[B]` float32, 0 for padding.

    Returns:
      For each metric the weighted sum and the sum of the weights.
    """
    count = weight.sum()
    # How many logits are not behind the label's; ties go to the smaller index, as in argmax, and
    # nothing is behind one that is not a number.
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    later = jnp.arange(logits.shape[-1]) > labels[:, None]
    rank = logits.shape[-1] - 1 - ((logits < own) | ((logits == own) & later)).sum(-1)
    sums = {
        "loss": (losses.cross_entropy(logits, labels) * weight).sum(),
        "top1": ((rank < 1) * weight).sum(),
    }
    if logits.shape[-1] >= TOP5_MIN_CLASSES:
        sums["top5"] = ((rank < 5) * weight).sum()
    return {name: (value, count) for name, value in sums.items()}


def confusion(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """`[K, K]` int32: how many examples of class i (row) were taken for class j (column)."""
    num_classes = logits.shape[-1]
    matrix = jnp.zeros((num_classes, num_classes), jnp.int32)
    return matrix.at[labels, logits.argmax(-1)].add(weight.astype(jnp.int32))


def add(parts: Iterable[Sums | Totals]) -> Totals:
    """The sums and counts of several batches together, in float64 on the host."""
    totals: Totals = {}
    for part in jax.device_get(list(parts)):
        for name, (value, count) in part.items():
            before, counted = totals.get(name, (0.0, 0.0))
            totals[name] = (before + float(value), counted + float(count))
    return totals


def mean(totals: Totals) -> dict[str, float]:
    """The quotient of each pair."""
    return {name: value / count for name, (value, count) in totals.items()}


class Window:
    """The metrics of the steps since the last log line, left on the devices until asked for."""

    def __init__(self, pending: Totals | None = None) -> None:
        """Start with what a checkpoint says of the steps before it."""
        self._totals: Totals = dict(pending or {})
        self._parts: list[tuple[range, Sums]] = []

    def add(self, call: range, sums: Sums) -> None:
        """Take in the metrics of the steps of a call, without waiting for it.

        Args:
          call: its steps, counted from 0.
          sums: with a leading axis that is at least as long as the call.
        """
        self._parts.append((call, sums))
        sharding.wait_for_earlier(self._parts)

    def totals(self) -> Totals:
        """Sums and counts so far.

        Raises:
          DivergedError: one of them is not finite; the message names the first such step.
        """
        for call, stacked in jax.device_get(self._parts):
            for index, step in enumerate(call):
                sums = {name: (value[index], n[index]) for name, (value, n) in stacked.items()}
                _check_finite(step + 1, sums)
                self._totals = add([self._totals, sums])
        self._parts = []
        return self._totals

    def clear(self) -> None:
        """Begin a new line of the log."""
        self._totals, self._parts = {}, []


def _check_finite(step: int, sums: Sums) -> None:
    infinite = [name for name, (value, _) in sums.items() if not np.isfinite(value)]
    if infinite:
        raise errors.DivergedError(
            f"{', '.join(infinite)} at step {step} is not finite: the run has diverged. The last "
            "good checkpoint is kept. Try a lower optim.learning_rate, a longer "
            "optim.schedule.warmup_epochs or optim.clip_norm=1, in a new --workdir"
        )
