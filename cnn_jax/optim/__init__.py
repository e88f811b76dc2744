"""Optimizers and learning-rate schedules, built with Optax.

- `schedules.py`: learning rates, as functions of the step and the array module; `decays.py` has
  their rules after the warm-up
- `builder.py`: `make`, the builder of the optimizers that a config can name
- `rules.py`: their update rules; `layerwise.py` has LARS and LAMB, `muon.py` has Muon
- `clipping.py`, `groups.py`: limits of the gradient; patterns of parameters
- `layer_decay.py`: rates that fall from the head to the input
- `own.py`: optimizers of users, made to fit the training step
- `values.py`: numbers that JAX may trace, and their checks

To add an optimizer, add its update rule to `rules.py`.
"""

import dataclasses
from typing import Any

import optax

from cnn_jax import errors, plan
from cnn_jax.optim import builder, groups, own, rules
from cnn_jax.optim.builder import make
from cnn_jax.optim.groups import KERNELS, decay_mask
from cnn_jax.optim.layer_decay import layer_factors, scale_layers
from cnn_jax.optim.own import check, fit
from cnn_jax.optim.rules import OPTIMIZERS, weight_decay_kind
from cnn_jax.optim.schedules import SCHEDULES, Schedule, make_schedule
from cnn_jax.plan import Optim
from cnn_jax.runtime import imports

__all__ = [
    "KERNELS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Schedule",
    "check",
    "check_patterns",
    "decay_mask",
    "fit",
    "has_patterns",
    "layer_factors",
    "make",
    "make_schedule",
    "of_plan",
    "resolve",
    "scale_layers",
    "scaled_rate",
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
    accumulator = float(rules.initial_accumulator(options.name, options.initial_accumulator))
    return dataclasses.replace(
        options,
        weight_decay_kind=weight_decay_kind(options.name, options.weight_decay_kind),
        decay=options.decay or KERNELS,
        initial_accumulator=accumulator,
        schedule=_resolve_schedule(options.schedule),
    )


def _resolve_schedule(options: plan.Schedule) -> plan.Schedule:
    first = options.warmup_first_step
    return dataclasses.replace(options, warmup_first_step=1 if first < 0 else first)


def scaled_rate(options: Optim, batch_size: int) -> float:
    """Returns `optim.learning_rate`, scaled to the batch size of a run.

    The rate is proportional to the batch size (Goyal et al. 2017, arXiv:1706.02677, section 2.1)
    or to its square root (Krizhevsky 2014, arXiv:1404.5997, section 5). Without
    `optim.reference_batch_size`, it is `optim.learning_rate`.

    Args:
      options: the section `optim` of a plan.
      batch_size: `train.batch_size`.
    """
    if not options.reference_batch_size:
        return options.learning_rate
    share = batch_size / options.reference_batch_size
    return options.learning_rate * (share**0.5 if options.batch_scaling == "sqrt" else share)


def of_plan(
    options: Optim, total_steps: int, steps_per_epoch: int, batch_size: int
) -> tuple[Schedule | None, optax.GradientTransformationExtraArgs]:
    """Returns the schedule and the optimizer of a run.

    Args:
      options: the section `optim` of a plan.
      total_steps: number of steps of the run.
      steps_per_epoch: number of steps of an epoch.
      batch_size: number of examples of a step, for `optim.reference_batch_size`.

    Returns:
      The learning rate by step, or None if a user's optimizer does not read it; and the optimizer.

    Raises:
      UserError: the optimizer is unknown, `optim.options` is set for an optimizer of this package,
        or a user's optimizer cannot be imported, does not fit the training step, or does not read a
        key that is set.
    """
    schedule = _schedule(options, total_steps, steps_per_epoch, batch_size)
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


def _schedule(options: Optim, total_steps: int, steps_per_epoch: int, batch_size: int) -> Schedule:
    """Returns the learning rate by step; a run with the schedule 'plateau' lowers it further."""
    named = dataclasses.asdict(_resolve_schedule(options.schedule))
    del named["patience"]  # Read where the validations are: in the run.
    return make_schedule(
        scaled_rate(options, batch_size),
        **named,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
    )


def has_patterns(options: Optim) -> bool:
    """Returns True if the optimizer is one of this package and reads patterns of parameters.

    The patterns are those of `optim.rate_factors`, and those of `optim.decay` for a weight decay or
    an L1 penalty that is on.

    Args:
      options: the section `optim` of a plan.
    """
    return options.name in OPTIMIZERS and bool(
        options.weight_decay or options.l1 or options.rate_factors
    )


def check_patterns(options: Optim, params: Any) -> None:
    """Checks that each pattern which an optimizer of this package reads matches a parameter.

    Args:
      options: the section `optim` of a plan.
      params: a tree of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      UserError: a pattern of `optim.decay` or of `optim.rate_factors` matches none.
    """
    if options.weight_decay or options.l1:
        decay_mask(params, resolve(options).decay)
    groups.rate_factors(params, options.rate_factors)
