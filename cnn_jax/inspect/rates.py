"""Learning-rate finder: the loss of a training whose learning rate rises from step to step.

Smith 2017, 'Cyclical Learning Rates for Training Neural Networks' (arXiv:1506.01186), section 3.3.
Range, smoothing, end and the rate that is suggested ('valley') are those of fastai.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data, errors, plan
from cnn_jax.contracts import Source, TrainState
from cnn_jax.plan import Plan
from cnn_jax.runtime import imports
from cnn_jax.train import checks, job, start
from cnn_jax.train.job import Job

_SMOOTHING = 0.98  # share of the old average, as in fastai's recorder
_LAST = 5  # losses without influence on the suggestion
_DIVERGED = 4.0  # times the smallest smoothed loss; there the finder ends


class Rates(NamedTuple):
    """The losses of a learning-rate finder.

    Attributes:
      rates: `[n]`, the learning rate of each step; `n` is smaller than asked if the loss diverged.
      losses: `[n]`, the loss of each batch before its update.
      smoothed: `[n]`, their exponential average without bias.
      suggested: the learning rate that `valley` gives.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggested: float


def find(
    config: ConfigDict | Mapping[str, Any] | Plan,
    *,
    source: Source | None = None,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
) -> Rates:
    """Trains at rising learning rates, and suggests one.

    Initial parameters (or those of `init.weights`), batches, augmentation, loss and optimizer are
    those of the config; its learning rate and schedule are not read.

    Args:
      config: a config; `cnn_jax/sections` lists its keys. Of a config with phases, the first phase
        is read.
      source: the data set, in place of `data.source`.
      lowest: the first learning rate.
      highest: the last one; the rates between have equal ratios.
      steps: the number of steps.

    Raises:
      UserError: a value is not allowed, the optimizer has its own learning rate, the weights do
        not fit, or the loss diverges within the first 10 steps.
    """
    if not 0 < lowest < highest or steps < 10:
        raise errors.UserError(
            "the rates must rise from a positive one, in at least 10 steps, got "
            f"{lowest:g} to {highest:g} in {steps} steps"
        )
    settings = plan.read(config)
    settings = plan.phases(settings)[0] if settings.phases else settings
    if imports.is_reference(settings.optim.name):
        raise errors.UserError(
            f"optim.name {settings.optim.name!r} has its own learning rate; the finder needs one "
            "of the built-in optimizers"
        )
    keys = dataclasses.replace(settings.train, steps=steps, steps_per_call=1)
    settings = dataclasses.replace(settings, train=keys)
    wanted = np.geomspace(lowest, highest, steps)
    take = _train(*_start(settings, source), wanted)
    if len(take.losses) < 10:
        raise errors.UserError(
            f"the loss diverged after {len(take.losses)} steps, at the learning rate "
            f"{wanted[len(take.losses)]:.2g}; start at a smaller one"
        )
    count = len(take.losses)
    smoothed = np.array(take.smoothed)
    # The first averages are noisy, and the loss rises in the last ones: fastai leaves out both.
    middle = slice(steps // 10, max(count - _LAST, steps // 10 + 1))
    return Rates(
        wanted[:count], np.array(take.losses), smoothed, valley(wanted[middle], smoothed[middle])
    )


def _start(settings: Plan, source: Source | None) -> tuple[Job, TrainState]:
    """Returns the parts of a training and its initial state, from `init.weights` if it has any."""
    checks.check(settings, warn=False)
    found = None
    if settings.init.weights:
        settings, found = start.find_checked(settings)
    opened = source or data.open_source(settings.data)
    fitted = None if found is None else start.fit(settings, found, opened.class_names)
    parts = job.make(settings, opened)
    try:
        begin = None if fitted is None else start.begin(parts, fitted)
        return parts, start.initial(parts, begin)
    except BaseException:
        parts.feed.close()
        raise


def _train(parts: Job, state: TrainState, wanted: np.ndarray) -> "_Losses":
    """Takes a step at each learning rate `[n]` until the loss diverges, and closes the feed."""
    take = _Losses()
    with contextlib.closing(parts.feed):
        calls = (range(step, step + 1) for step in range(len(wanted)))
        for call, inputs in parts.feed.train_inputs(calls):
            rate = wanted[call.start : call.stop].astype(jax.dtypes.canonicalize_dtype(np.float64))
            state, sums = parts.programs.train_steps(state, inputs, 1, rate)
            total, count = jax.device_get(sums["loss"])
            if take(float(total[0] / count[0])):
                break
    return take


class _Losses:
    """Losses and their average; a call adds one and returns True if the training diverged."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self._average = 0.0

    def __call__(self, loss: float) -> bool:
        if not np.isfinite(loss):
            return True
        self._average = _SMOOTHING * self._average + (1 - _SMOOTHING) * loss
        smooth = self._average / (1 - _SMOOTHING ** (len(self.losses) + 1))
        self.losses.append(loss)
        self.smoothed.append(smooth)
        return smooth > _DIVERGED * min(self.smoothed)


def valley(rates: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray) -> float:
    """Returns a learning rate in the longest fall of the losses, as fastai's `valley` does.

    Let L be the length of the longest decreasing subsequence, and e the index of its last loss. The
    rate is that of the index e - L + int(L / 3) + int(L / 6), or the first one if this is negative.

    Args:
      rates: `[n]`.
      losses: `[n]`.

    >>> valley([1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 20])
    3.0
    """
    lengths = np.ones(len(losses), int)
    for index, loss in enumerate(losses):
        before = [lengths[other] for other in range(index) if loss < losses[other]]
        lengths[index] = 1 + max(before, default=0)
    end = int(lengths.argmax())
    start = end - int(lengths[end])
    third = (end - start) / 3
    return float(rates[max(start + int(third) + int(third / 2), 0)])
