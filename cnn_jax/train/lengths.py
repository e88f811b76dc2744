"""The length of a run, what it is too short for, and the optimizer, which depends on it."""

from collections.abc import Iterator

import optax

from cnn_jax import errors, optim
from cnn_jax.plan import Ema, Plan
from cnn_jax.train import decisions
from cnn_jax.train.given import Given

_MAX_STEPS = 2**31 - 1  # The state counts its steps in int32.
_LARGE_SHARE = 0.1  # of the initial variables in an average at the end of a run


def schedule_steps(plan: Plan, steps_per_epoch: int) -> int:
    """Returns the length of the learning-rate schedule in steps.

    It is the length of the run without early stopping. If `train.steps` ends the run within the
    warm-up, as in a trial of a long recipe, it is the length of the warm-up.
    """
    total_steps = run_steps(plan, steps_per_epoch)
    if not plan.train.steps:
        return total_steps
    return max(total_steps, round(plan.optim.schedule.warmup_epochs * steps_per_epoch))


def run_steps(plan: Plan, steps_per_epoch: int) -> int:
    """Returns the length of a run in steps.

    Raises:
      UserError: the run is too short or too long.
    """
    total_steps = plan.train.steps or round(plan.train.epochs * steps_per_epoch)
    if total_steps < 1:
        raise errors.UserError(
            f"train.epochs {plan.train.epochs:g} is less than one step; an epoch has "
            f"{steps_per_epoch:,}: raise train.epochs, or set train.steps"
        )
    if total_steps > _MAX_STEPS:
        raise errors.UserError(
            f"train.epochs {plan.train.epochs:g} are {total_steps:,} steps; at most "
            f"{_MAX_STEPS:,} are possible"
        )
    return total_steps


def validation_steps(plan: Plan, total_steps: int, steps_per_epoch: int) -> int:
    """Returns the number of steps between validations."""
    return max(round((plan.eval.every_epochs or total_steps) * steps_per_epoch), 1)


def warnings(plan: Plan, total_steps: int, steps_per_epoch: int) -> Iterator[str]:
    """Yields a sentence for each part of a plan that a run of `total_steps` is too short for."""
    length = schedule_steps(plan, steps_per_epoch)
    if length > total_steps:
        yield (
            f"the run of {total_steps:,} steps (train.steps) ends within the warm-up of "
            f"{length:,} steps"
        )
    yield from _of_average(plan.ema, total_steps)
    validations = -(-total_steps // validation_steps(plan, total_steps, steps_per_epoch))
    yield from decisions.warnings(plan, validations)


def _of_average(keys: Ema, total_steps: int) -> Iterator[str]:
    """Yields a sentence if the average at the end of the run is mostly the initial parameters."""
    if not keys.decay:
        return
    share = 0.0 if keys.warmup else keys.decay ** (total_steps // keys.every_steps)
    if keys.every_steps > total_steps:
        yield (
            "the average stays that of the initial parameters, because ema.every_steps "
            f"{keys.every_steps} is above the {total_steps:,} steps of the run"
        )
    elif share > _LARGE_SHARE:
        yield (
            f"after the run's {total_steps:,} steps, {share:.0%} of the average are still the "
            f"initial parameters; set ema.warmup=True, or ema.decay below {keys.decay}"
        )


def make_optimizer(
    plan: Plan, given: Given, total_steps: int, steps_per_epoch: int
) -> tuple[optim.Schedule | None, optax.GradientTransformationExtraArgs]:
    """Returns the schedule and the optimizer of a run.

    Args:
      plan: the plan.
      given: the objects that `train.run` received.
      total_steps: the length of the schedule in steps.
      steps_per_epoch: the length of an epoch in steps.

    Returns:
      The schedule, or None for a given optimizer, which has its own; and the optimizer.

    Raises:
      UserError: a key of the section `optim` is not allowed.
    """
    if given.optimizer is not None:
        return None, optim.fit(given.optimizer)
    return optim.of_plan(plan.optim, total_steps, steps_per_epoch, plan.train.batch_size)
