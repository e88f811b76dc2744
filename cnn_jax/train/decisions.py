"""Decisions after each validation: lower the learning rate on a plateau, or stop early."""

import dataclasses
import math
from collections.abc import Iterator

from cnn_jax import errors
from cnn_jax.plan import Plan
from cnn_jax.runs.courses import Course
from cnn_jax.runtime import imports

PLATEAU = "plateau"


def check(options: Plan) -> None:
    """Checks that a run has the validations that 'plateau' and early stopping need.

    Raises:
      UserError: the run has no validation split or no validation before its end, or the user's
        optimizer computes its own learning rates.
    """
    named = [
        ("optim.schedule.name", PLATEAU, options.optim.schedule.name == PLATEAU),
        ("eval.patience", options.eval.patience, options.eval.patience > 0),
    ]
    for key, value, is_set in named:
        if is_set and not options.data.validation_split:
            raise errors.UserError(
                f"{key} {value!r} needs validations; set data.validation_split to a split"
            )
        if is_set and not options.eval.every_epochs:
            raise errors.UserError(
                f"{key} {value!r} needs validations during the run; set eval.every_epochs, which "
                "is 0, to the epochs between them"
            )
    if options.optim.schedule.name == PLATEAU and imports.is_reference(options.optim.name):
        raise errors.UserError(
            f"optim.schedule.name {PLATEAU!r} is for the optimizers of cnn_jax, got optim.name "
            f"{options.optim.name!r}, which computes its own rates; set another schedule"
        )


def warnings(options: Plan, validations: int) -> Iterator[str]:
    """Yields sentences on 'plateau' and early stopping that cannot act in a run.

    The first validation sets the best value, unless it is NaN. What the last one decides has no
    effect, because it is at the end of the run. If `train.epochs` is the length of the run,
    `cnn_jax.unread` names such a patience of early stopping before the data is read.

    Args:
      options: the plan.
      validations: the number of validations of the whole run.
    """
    patience = options.eval.patience
    if options.train.steps and patience and patience + 1 >= validations:
        yield (
            f"eval.patience {patience} cannot stop a run of {validations} validations early; "
            "lower it or eval.every_epochs"
        )
    schedule = options.optim.schedule
    if schedule.name == PLATEAU and schedule.patience + 2 >= validations:
        yield (
            f"optim.schedule.patience {schedule.patience} cannot lower the rate in a run of "
            f"{validations} validations; lower it or eval.every_epochs"
        )


def after_validation(course: Course, rank: float, options: Plan) -> Course:
    """Returns the state of early stopping and of 'plateau' after a validation.

    A validation is better if its rank is above all earlier ranks; NaN is never better. The schedule
    'plateau' is PyTorch's `ReduceLROnPlateau` with `threshold=0` and `eps=0`. After
    `optim.schedule.patience` bad validations, the next bad one multiplies the rate by
    `optim.schedule.decay_factor`, down to `optim.schedule.end_factor`. The count then starts again.
    Early stopping ends the run at the `eval.patience`-th validation in a row without improvement.

    Args:
      course: the state before the validation.
      rank: the rank of the validated state: higher is better.
      options: the plan.
    """
    schedule = options.optim.schedule
    patience = options.eval.patience
    if schedule.name != PLATEAU and not patience:
        return course
    if rank > (-math.inf if course.best is None else course.best):
        return dataclasses.replace(course, best=rank, bad_validations=0, stale_validations=0)
    factor, bad, stale = (
        course.rate_factor,
        course.bad_validations + 1,
        course.stale_validations + 1,
    )
    if schedule.name == PLATEAU and bad > schedule.patience:
        # The least factor of an extended run can lie above the factor of the old run.
        least = min(schedule.end_factor, factor)
        factor, bad = max(factor * schedule.decay_factor, least), 0
    return Course(factor, course.best, bad, stale, stopped=0 < patience <= stale)


def extended(course: Course, old: Plan, new: Plan) -> Course:
    """Returns the initial state of early stopping and of 'plateau' in a run that extends another.

    If both runs have the schedule 'plateau', its factor, best rank and count are kept. Early
    stopping counts from 0. Ranks by different metrics cannot be compared, so with another monitor,
    only the factor is kept.

    Args:
      course: the state at the end of the old run.
      old: the plan of the old run.
      new: the plan of the run that extends it.
    """
    if not old.optim.schedule.name == new.optim.schedule.name == PLATEAU:
        return Course()
    if _monitored(old) != _monitored(new):
        return Course(course.rate_factor)
    return dataclasses.replace(course, stale_validations=0, stopped=False)


def _monitored(options: Plan) -> tuple[str, str, str]:
    return options.eval.monitor, options.eval.monitor_mode, options.eval.weights
