"""Rules of the learning rate after the warm-up: `(step, array module) -> factor of the rate`.

Steps are counted from `Options.origin`. They may be negative during the warm-up, where the factor
is not used. To add a schedule, add a function of `Options` and its entry in `RULES`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from cnn_jax import errors
from cnn_jax.optim import values
from cnn_jax.optim.values import Number, at_least, is_known, is_off

Rule = Callable[[Any, Any], Any]

# A step or quotient this close to the next one counts as that one, because 2.4 epochs of 5 steps
# are not 12 steps in binary floating point.
_NEARLY = 1e-6


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the rules: `origin`, `steps` and arguments of `schedules.make_schedule`.

    Attributes:
      origin: the step that the rule counts from, in steps since the start of the run.
      steps: number of steps from there to the end of the run, at least 1.
    """

    origin: Number
    steps: Number
    steps_per_epoch: Number
    boundary_epochs: tuple[Number, ...]
    decay_epochs: Number
    decay_factor: Number
    staircase: bool
    end_factor: Number
    cycle_epochs: Number
    cycle_factor: Number
    power: Number
    peak_at: Number
    start_factor: Number

    def check(self) -> None:
        """Raises a UserError if a number that is not traced is out of range."""
        for key in ("end_factor", "peak_at"):
            values.check_share(f"schedule.{key}", getattr(self, key))
        for key in ("decay_factor", "start_factor"):
            values.check_factor(f"schedule.{key}", getattr(self, key))
        for key in ("decay_epochs", "power"):
            values.check_positive(f"schedule.{key}", getattr(self, key))
        values.check_range("schedule.cycle_epochs", self.cycle_epochs, low=0.0)
        cycle = self.cycle_epochs * self.steps_per_epoch
        if is_known(cycle) and 0 < cycle < 1:
            raise errors.UserError(
                "optim.schedule.cycle_epochs must be 0 or at least one step, which is "
                f"{1 / self.steps_per_epoch:g} epochs, got {self.cycle_epochs}"
            )
        values.check_range("schedule.cycle_factor", self.cycle_factor, low=1.0)

    def above_end(self, share: Any) -> Any:
        """Returns `share`, mapped linearly from [0, 1] to `[end_factor, 1]`."""
        end = self.end_factor
        return share if is_off(end) else end + (1 - end) * share


def make(name: str, options: Options) -> Rule:
    """Returns a rule.

    Raises:
      UserError: the name is unknown, or a value is out of range.
    """
    if name not in RULES:
        raise errors.unknown("learning-rate schedule", name, SCHEDULES)
    options.check()
    return RULES[name](options)


def _constant(options: Options) -> Rule:
    """Returns the rule that keeps the rate."""
    del options
    return lambda step, xp: xp.ones_like(floats(step, xp))


def _cosine(options: Options) -> Rule:
    """Returns half a cosine period from 1 to `end_factor`, repeated if `cycle_epochs` is set."""
    if not is_off(options.cycle_epochs):
        return _cosine_restarts(options)

    def rule(step: Any, xp: Any) -> Any:
        share = xp.minimum(floats(step, xp) / options.steps, 1)
        return options.above_end(_half_cosine(share, xp))

    return rule


def _cosine_restarts(options: Options) -> Rule:
    """Returns cycles of the cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, section 3).

    The first n cycles have the length (f^n - 1) / (f - 1) relative to the first one, where f is
    `cycle_factor`.
    """
    first, factor = options.cycle_epochs * options.steps_per_epoch, options.cycle_factor

    def rule(step: Any, xp: Any) -> Any:
        share = floats(xp.maximum(step, 0), xp) / first
        grows = xp.asarray(factor) != 1
        base = xp.where(grows, factor, 2.0)
        number = xp.log1p(share * (base - 1)) / xp.log(base)
        number = xp.floor(xp.where(grows, number, share) + _NEARLY)
        begin = xp.where(grows, (base**number - 1) / (base - 1), number)
        length = xp.where(grows, base**number, 1.0)
        return options.above_end(_half_cosine(xp.maximum(share - begin, 0) / length, xp))

    return rule


def _exponential(options: Options) -> Rule:
    """Returns the exponential decay by `decay_factor` every `decay_epochs`.

    With `staircase`, the factor changes only once every `decay_epochs`.
    """
    steps = options.decay_epochs * options.steps_per_epoch

    def rule(step: Any, xp: Any) -> Any:
        count = floats(xp.maximum(step, 0), xp)
        quotient = xp.floor((count + _NEARLY) / steps) if options.staircase else count / steps
        return options.decay_factor**quotient

    return rule


def _one_cycle(options: Options) -> Rule:
    """Returns a rise from `start_factor` to 1 and a fall to `end_factor`, of half a cosine each.

    It is torch's form of the cycle of Smith & Topin (2018, arXiv:1708.07120): the rate is highest
    at step `peak_at * steps - 1`, and has `end_factor` in the last step.
    """
    steps: Any = options.steps
    peak: Any = options.peak_at * steps - 1
    rise, fall = at_least(peak, _NEARLY), at_least(steps - 1 - peak, _NEARLY)

    def rule(step: Any, xp: Any) -> Any:
        count = floats(xp.maximum(step, 0), xp)
        rising = 1 + (options.start_factor - 1) * _half_cosine(count / rise, xp)
        falling = _half_cosine(xp.clip((count - peak) / fall, 0, 1), xp)
        return xp.where(count <= peak, rising, options.above_end(falling))

    return rule


def _polynomial(options: Options) -> Rule:
    """Returns `(1 - step / steps)^power`, mapped to a fall from 1 to `end_factor`."""

    def rule(step: Any, xp: Any) -> Any:
        share = xp.minimum(floats(xp.maximum(step, 0), xp) / options.steps, 1)
        return options.above_end((1 - share) ** options.power)

    return rule


def _step(options: Options) -> Rule:
    """Returns the rule that multiplies by `decay_factor` at each of `boundary_epochs`.

    Raises:
      UserError: a boundary is out of range, the boundaries do not increase, or one comes before
        `origin`.
    """
    epochs, per_epoch = options.boundary_epochs, options.steps_per_epoch
    for epoch in epochs:
        values.check_range("schedule.boundary_epochs", epoch, low=0.0)
    in_run: list[Any] = [round(epoch * per_epoch) for epoch in epochs]
    edges = [edge - options.origin for edge in in_run]
    if is_known(*edges):
        if any(a >= b for a, b in itertools.pairwise(edges)):
            raise errors.UserError(
                "optim.schedule.boundary_epochs must increase by at least one step, got "
                f"{epochs}, which are the steps {errors.listed(in_run, 20)}"
            )
        if any(edge < 0 for edge in edges):
            raise errors.UserError(
                "optim.schedule.boundary_epochs must come after the warm-up, which ends at epoch "
                f"{options.origin / per_epoch:g}, got {epochs}; shorten "
                "optim.schedule.warmup_epochs, or leave out the early boundaries"
            )

    def rule(step: Any, xp: Any) -> Any:
        passed = sum((xp.where(step >= edge, 1, 0) for edge in edges), xp.zeros_like(step))
        return options.decay_factor ** floats(passed, xp)

    return rule


def floats(array: Any, xp: Any) -> Any:
    """Returns an array in the widest floating dtype that the array module uses."""
    return xp.asarray(array, dtype=float)


def _half_cosine(share: Any, xp: Any) -> Any:
    """Returns `(1 + cos(pi share)) / 2`, which falls from 1 to 0 for `share` from 0 to 1."""
    return 0.5 * (1 + xp.cos(xp.pi * share))


RULES: Mapping[str, Callable[[Options], Rule]] = MappingProxyType(
    {
        "constant": _constant,
        "cosine": _cosine,
        "exponential": _exponential,
        "one_cycle": _one_cycle,
        "plateau": _constant,  # A run lowers the rate further, after validations.
        "polynomial": _polynomial,
        "step": _step,
    }
)
SCHEDULES = tuple(RULES)
