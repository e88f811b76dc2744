"""Learning-rate schedules: functions of the step and the array module, `numpy` or `jax.numpy`.

Their numbers can be JAX arrays, also traced ones, as under `jax.vmap` over learning rates. Traced
values are not checked.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp
from jax.typing import ArrayLike

from cnn_jax import errors
from cnn_jax.optim import decays, values
from cnn_jax.optim.decays import SCHEDULES, floats
from cnn_jax.optim.values import Number, at_least, is_known, is_off

__all__ = ["SCHEDULES", "Schedule", "make_schedule"]

WARMUPS = ("linear", "exponential", "constant")
ORIGINS = ("warmup", "start")


class Schedule(Protocol):
    """Learning rate by step.

    Optax's schedules are functions of the step alone; they compute in float32.
    """

    def __call__(self, step: ArrayLike, xp: Any = jnp) -> Any:
        """Returns the learning rate of a step.

        Args:
          step: the step, counted from 0; a number, or an array of any shape.
          xp: the array module. `numpy` computes in float64; `jax.numpy` is traceable, and computes
            in float32, or in float64 under `jax_enable_x64`.
        """
        ...


def make_schedule(
    learning_rate: Number,
    *,
    name: str,
    total_steps: Number,
    steps_per_epoch: Number = 1,
    warmup_epochs: Number = 0.0,
    warmup: str = "linear",
    warmup_factor: Number = 0.0,
    warmup_first_step: Number = 1,
    decay_from: str = "warmup",
    per_epoch: bool = False,
    boundary_epochs: tuple[Number, ...] = (),
    decay_epochs: Number = 1.0,
    decay_factor: Number = 0.1,
    staircase: bool = False,
    end_factor: Number = 0.0,
    cycle_epochs: Number = 0.0,
    cycle_factor: Number = 1.0,
    power: Number = 1.0,
    peak_at: Number = 0.3,
    start_factor: Number = 0.04,
) -> Schedule:
    """Returns a learning-rate schedule: a warm-up, then one of `SCHEDULES`.

    Args:
      learning_rate: learning rate at the end of the warm-up.
      name: 'constant' keeps `learning_rate`. So does 'plateau': a run lowers its rate after
        validations, not by step. 'step' multiplies it by `decay_factor` at each of
        `boundary_epochs`.
        'exponential' decays it by `decay_factor` every `decay_epochs`. 'cosine' decays it to
        `end_factor` at `total_steps` by half a cosine period (Loshchilov & Hutter 2017,
        arXiv:1608.03983). The last step, `total_steps` - 1, has a rate above that: with D steps
        after the warm-up and `end_factor` 0, sin(pi / 2D)^2 times `learning_rate`. 'polynomial'
        decays by a power. 'one_cycle' rises and falls, as torch's `OneCycleLR`.
      total_steps: number of steps of the run.
      steps_per_epoch: number of steps of an epoch in the arguments below.
      warmup_epochs: length of the warm-up in epochs (Goyal et al. 2017, arXiv:1706.02677, section
        2.2); 0 for no warm-up.
      warmup: 'linear' rises from `warmup_factor` to 1. 'exponential' multiplies the rate by the
        same number in each step, from `warmup_factor` to 1. 'constant' stays at `warmup_factor`.
      warmup_factor: share of the rate at the start of the warm-up.
      warmup_first_step: number n of the first step in a warm-up of W steps. At step n, the fraction
        n / W of the rise is done. With 1, step W has the full rate, and no step has the rate 0.
        With 0, the first step has the rate `warmup_factor`, as in Optax's `linear_schedule`, in
        torch's `LinearLR`, in big_vision and in TensorFlow's EfficientNet.
      decay_from: 'warmup' counts the steps of the decay from the end of the warm-up, as torch's
        `SequentialLR`. 'start' counts them from the start of the run, as timm without
        `warmup_prefix` and TensorFlow's EfficientNet; the decay then begins below `learning_rate`.
      per_epoch: True to change the rate at the start of each epoch only, as schedulers of torch and
        timm that are called once per epoch. The warm-up then counts epochs as its steps.
      boundary_epochs: epochs at which 'step' decays, increasing, counted from the start of the run.
      decay_epochs: number of epochs over which 'exponential' decays by `decay_factor`.
      decay_factor: factor in (0, 1] of 'step' and 'exponential'.
      staircase: True to decay 'exponential' once every `decay_epochs`, False to decay it in each
        step.
      end_factor: share of the rate at the end of 'cosine', 'one_cycle' and 'polynomial'.
      cycle_epochs: length of the first cycle of 'cosine', after which it restarts; 0 for one cycle.
      cycle_factor: length of each cycle relative to the one before.
      power: exponent of 'polynomial'.
      peak_at: share of the steps that 'one_cycle' takes to reach the highest rate.
      start_factor: share of the rate at the start of 'one_cycle'.

    Raises:
      UserError: a name is unknown, or a value is out of range.

    >>> import numpy as np
    >>> schedule = make_schedule(0.8, name="cosine", total_steps=100)
    >>> [float(schedule(step, np)) for step in (0, 50, 100)]
    [0.8, 0.4, 0.0]
    """
    values.check_range("learning_rate", learning_rate, low=0.0)
    values.check_length("total_steps", total_steps)
    values.check_length("steps_per_epoch", steps_per_epoch)
    warmup_steps = _warmup_steps(warmup_epochs, steps_per_epoch, total_steps)
    if decay_from not in ORIGINS:
        raise errors.unknown("optim.schedule.decay_from", decay_from, ORIGINS)
    origin = warmup_steps if decay_from == "warmup" else 0
    rule = decays.make(
        name,
        decays.Options(
            origin=origin,
            steps=at_least(total_steps - origin, 1),
            steps_per_epoch=steps_per_epoch,
            boundary_epochs=boundary_epochs,
            decay_epochs=decay_epochs,
            decay_factor=decay_factor,
            staircase=staircase,
            end_factor=end_factor,
            cycle_epochs=cycle_epochs,
            cycle_factor=cycle_factor,
            power=power,
            peak_at=peak_at,
            start_factor=start_factor,
        ),
    )
    values.check_range("schedule.warmup_first_step", warmup_first_step, low=0.0)
    first = warmup_first_step * (steps_per_epoch if per_epoch else 1)
    warm = _warmup(warmup, warmup_factor, first, warmup_steps, per_epoch)

    def schedule(step: ArrayLike, xp: Any = jnp) -> Any:
        count = xp.asarray(step)
        if per_epoch:
            count = count // steps_per_epoch * steps_per_epoch
        factor = rule(count - origin, xp)
        if not is_off(warmup_steps):
            factor = xp.where(count < warmup_steps, warm(count, xp), factor)
        return xp.asarray(learning_rate, dtype=factor.dtype) * factor

    return schedule


def _warmup_steps(warmup_epochs: Number, steps_per_epoch: Number, total_steps: Number) -> Any:
    """Returns the length of the warm-up in steps.

    Raises:
      UserError: it is negative, or longer than the run.
    """
    values.check_range("schedule.warmup_epochs", warmup_epochs, low=0.0)
    warmup_steps: Any = round(warmup_epochs * steps_per_epoch)
    if is_known(warmup_steps, total_steps) and warmup_steps > total_steps:
        # In epochs, because the number of steps is not known before the data is read.
        raise errors.UserError(
            "optim.schedule.warmup_epochs must be at most the run's "
            f"{total_steps / steps_per_epoch:g} epochs, got {warmup_epochs:g}; shorten the "
            "warm-up or lengthen the run"
        )
    return warmup_steps


def _warmup(
    kind: str, start: Number, first: Number, steps: Any, per_epoch: bool
) -> Callable[[Any, Any], Any]:
    """Returns the factor of the rate during the warm-up, `(step, array module) -> factor`.

    Raises:
      UserError: a value is out of range, the kind is unknown, or `start` is 0 and the kind needs a
        positive start.
    """
    values.check_share("schedule.warmup_factor", start)
    if kind not in WARMUPS:
        raise errors.unknown("optim.schedule.warmup", kind, WARMUPS)
    if kind != "linear" and not is_off(steps) and is_off(start):
        raise errors.UserError(
            f"optim.schedule.warmup {kind!r} needs a start above 0; set "
            "optim.schedule.warmup_factor, or take 'linear'"
        )

    def warm(count: Any, xp: Any) -> Any:
        share = floats(count + first, xp) / at_least(steps, 1)
        if per_epoch:  # The third epoch of a warm-up of 2.5 epochs would have the share 3 / 2.5.
            share = xp.minimum(share, 1)
        match kind:
            case "constant":
                return xp.full_like(share, start)
            case "exponential":
                return start ** (1 - share)
            case _:
                return share if is_off(start) else start + (1 - start) * share

    return warm
