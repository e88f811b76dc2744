"""The length of a run, and the optimizer, whose schedule depends on it."""

import optax

from cnn_jax import errors, optim
from cnn_jax.plan import Plan
from cnn_jax.train.given import Given

_MAX_STEPS = 2**31 - 1  # The state counts its steps in int32.


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
