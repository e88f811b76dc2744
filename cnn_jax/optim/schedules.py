"""Learning-rate schedules: functions of the step and the array module, `numpy` or `jax.numpy`.

Their numbers can be JAX arrays, also traced ones, as under `jax.vmap` over learning rates. Traced
values are not checked.
"""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cnn_jax import errors
from cnn_jax.runtime.jax_internals import Tracer

SCHEDULES = ("constant", "cosine", "exponential", "step")

Number = float | jax.Array
_Rule = Callable[[Any, Any], Any]
"""`(steps since the warm-up, array module) -> factor of the learning rate`."""


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
    warmup_first_step: Number = 1,
    boundary_epochs: tuple[Number, ...] = (),
    decay_epochs: Number = 1.0,
    decay_factor: Number = 0.1,
) -> Schedule:
    """Returns a learning-rate schedule: a linear warm-up, then one of `SCHEDULES`.

    Args:
      learning_rate: learning rate at the end of the warm-up.
      name: 'constant' keeps `learning_rate`. 'step' multiplies it by `decay_factor` at each of
        `boundary_epochs`. 'exponential' decays it continuously, by `decay_factor` every
        `decay_epochs`. 'cosine' decays it to 0 at `total_steps` by half a cosine period
        (Loshchilov & Hutter 2017, arXiv:1608.03983). The last step, `total_steps` - 1, has a rate
        above 0: with D steps after the warm-up, sin(pi / 2D)^2 times `learning_rate`.
      total_steps: number of steps of the run.
      steps_per_epoch: number of steps of an epoch in the arguments below.
      warmup_epochs: length of the warm-up in epochs (Goyal et al. 2017, arXiv:1706.02677, section
        2.2); 0 for no warm-up.
      warmup_first_step: number of the first of the W steps of the warm-up. Step n has the rate
        n / W times `learning_rate`. With 1, no step is without effect and step W has the full rate.
        With 0, the first step has the rate 0, as in Optax's `linear_schedule`, in big_vision and in
        TensorFlow's EfficientNet.
      boundary_epochs: epochs at which 'step' decays, increasing, counted from the start of the run.
      decay_epochs: epochs in which 'exponential' decays by `decay_factor`, counted from the end of
        the warm-up.
      decay_factor: factor in (0, 1] of 'step' and 'exponential'.

    Raises:
      UserError: `name` is unknown, or a value is out of range.

    >>> import numpy as np
    >>> schedule = make_schedule(0.8, name="cosine", total_steps=100)
    >>> [float(schedule(step, np)) for step in (0, 50, 100)]
    [0.8, 0.4, 0.0]
    """
    check_range("learning_rate", learning_rate, low=0.0)
    check_range("schedule.warmup_epochs", warmup_epochs, low=0.0)
    check_range("schedule.warmup_first_step", warmup_first_step, low=0.0)
    if is_known(decay_factor) and not 0 < decay_factor <= 1:
        raise errors.UserError(f"optim.schedule.decay_factor must be in (0, 1], got {decay_factor}")
    warmup_steps: Any = round(warmup_epochs * steps_per_epoch)
    if is_known(warmup_steps, total_steps) and warmup_steps > total_steps:
        raise errors.UserError(
            f"optim.schedule.warmup_epochs must be at most the run's {total_steps} steps, got "
            f"{warmup_epochs} ({warmup_steps} steps)"
        )
    rule: _Rule
    match name:
        case "constant":
            rule = _constant
        case "cosine":
            rule = _cosine(_at_least_1(total_steps - warmup_steps))
        case "exponential":
            rule = _exponential(decay_epochs, steps_per_epoch, decay_factor)
        case "step":
            edges = [round(epoch * steps_per_epoch) - warmup_steps for epoch in boundary_epochs]
            rule = _step(edges, boundary_epochs, decay_factor)
        case _:
            raise errors.unknown("learning-rate schedule", name, SCHEDULES)

    def schedule(step: ArrayLike, xp: Any = jnp) -> Any:
        count = xp.asarray(step)
        factor = rule(count - warmup_steps, xp)
        if not is_off(warmup_steps):
            warm = _floats(count + warmup_first_step, xp) / _at_least_1(warmup_steps)
            factor = xp.where(count < warmup_steps, warm, factor)
        return xp.asarray(learning_rate, dtype=factor.dtype) * factor

    return schedule


def check_range(key: str, value: Number, low: float, below: float = float("inf")) -> None:
    """Raises a UserError if a known value of the key `optim.KEY` is not in `[low, below)`."""
    if is_known(value) and not low <= value < below:
        limit = " and finite" if below == float("inf") else f" and below {below:g}"
        raise errors.UserError(f"optim.{key} must be at least {low:g}{limit}, got {value}")


def is_known(*values: Number) -> bool:
    """Returns True unless JAX traces one of the values, so that it has no number yet."""
    return not any(isinstance(value, Tracer) for value in values)


def is_off(value: Number) -> bool:
    """Returns True for the Python number 0, which leaves out a stage of an optimizer.

    Returns False for every JAX array, so that the state has one structure for all values.
    """
    return not isinstance(value, jax.Array) and value == 0


def _at_least_1(value: Any) -> Any:
    return jnp.maximum(value, 1) if isinstance(value, jax.Array) else max(value, 1)


def _floats(values: Any, xp: Any) -> Any:
    """Returns an array in the widest floating dtype that the array module uses."""
    return xp.asarray(values, dtype=float)


def _constant(step: Any, xp: Any) -> Any:
    return xp.ones_like(_floats(step, xp))


def _cosine(decay_steps: Number) -> _Rule:
    def rule(step: Any, xp: Any) -> Any:
        return 0.5 * (1 + xp.cos(xp.pi * xp.minimum(_floats(step, xp) / decay_steps, 1)))

    return rule


def _exponential(decay_epochs: Number, steps_per_epoch: Number, decay_factor: Number) -> _Rule:
    if is_known(decay_epochs) and decay_epochs <= 0:
        raise errors.UserError(f"optim.schedule.decay_epochs must be positive, got {decay_epochs}")
    decay_steps = decay_epochs * steps_per_epoch

    def rule(step: Any, xp: Any) -> Any:
        return decay_factor ** (_floats(xp.maximum(step, 0), xp) / decay_steps)

    return rule


def _step(edges: list[Any], boundary_epochs: tuple[Number, ...], decay_factor: Number) -> _Rule:
    """Returns the schedule `(step, xp) -> factor` that multiplies by `decay_factor` at each edge.

    Args:
      edges: the edges in steps since the warm-up.
      boundary_epochs: the same in epochs, for messages.
      decay_factor: the factor.
    """
    increasing = not is_known(*edges) or (
        all(edge >= 0 for edge in edges) and all(a < b for a, b in itertools.pairwise(edges))
    )
    if not increasing:
        raise errors.UserError(
            "optim.schedule.boundary_epochs must increase and come after the warm-up, got "
            f"{boundary_epochs}"
        )

    def rule(step: Any, xp: Any) -> Any:
        passed = sum((xp.where(step >= edge, 1, 0) for edge in edges), xp.zeros_like(step))
        return decay_factor ** _floats(passed, xp)

    return rule
