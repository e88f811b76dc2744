"""Optimizers and learning-rate schedules, built with Optax.

- `schedules.py`: learning rates, as functions of the step and the array module
- `builder.py`: `make`, the builder of the optimizers that a config can name
- `own.py`: optimizers of users, made to fit the training step

To add an optimizer, add its update rule to `_rule` in `builder.py`.
"""

import dataclasses

import optax

from cnn_jax import errors, plan
from cnn_jax.optim import builder, own
from cnn_jax.optim.builder import KERNELS, OPTIMIZERS, decay_mask, make, weight_decay_kind
from cnn_jax.optim.own import check, fit
from cnn_jax.optim.schedules import SCHEDULES, Schedule, make_schedule
from cnn_jax.plan import Optim
from cnn_jax.runtime import imports

__all__ = [
    "KERNELS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Schedule",
    "check",
    "decay_mask",
    "fit",
    "make",
    "make_schedule",
    "of_plan",
    "resolve",
    "weight_decay_kind",
]


def resolve(options: Optim) -> Optim:
    """Returns a section with its automatic values replaced, as config.json stores them.

    The section of an optimizer that is not in `OPTIMIZERS` stays, because the optimizer may not
    read them.

    Args:
      options: the section `optim` of a plan.
    """
    if options.name not in OPTIMIZERS:
        return options
    return dataclasses.replace(
        options,
        weight_decay_kind=weight_decay_kind(options.name, options.weight_decay_kind),
        decay=options.decay or KERNELS,
        schedule=_resolve_schedule(options.schedule),
    )


def _resolve_schedule(options: plan.Schedule) -> plan.Schedule:
    first = options.warmup_first_step
    return dataclasses.replace(options, warmup_first_step=1 if first < 0 else first)


def of_plan(
    options: Optim, total_steps: int, steps_per_epoch: int
) -> tuple[Schedule | None, optax.GradientTransformationExtraArgs]:
    """Returns the schedule and the optimizer of a run.

    Args:
      options: the section `optim` of a plan.
      total_steps: number of steps of the run.
      steps_per_epoch: number of steps of an epoch.

    Returns:
      The learning rate by step, or None if a user's optimizer does not read it; and the optimizer.

    Raises:
      UserError: the optimizer is unknown, cannot be imported or does not fit the training step, or
        it does not read an option that is set.
    """
    schedule = make_schedule(
        options.learning_rate,
        **dataclasses.asdict(_resolve_schedule(options.schedule)),
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
    )
    if imports.is_reference(options.name):
        return own.of_plan(options, schedule)
    if options.name not in OPTIMIZERS:
        raise errors.unknown("optimizer", options.name, [*OPTIMIZERS, "module:attribute"])
    if options.options:
        raise errors.UserError(
            f"optim.options {dict(options.options)} are for an optimizer 'module:attribute'; the "
            f"options of optim.name {options.name!r} are keys such as optim.momentum and optim.b1"
        )
    options = resolve(options)
    named = {name: getattr(options, name) for name in builder.OPTIONS}
    return schedule, make(name=options.name, learning_rate=schedule, **named)
