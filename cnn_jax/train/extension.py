"""Extension of a finished run: `init.extend` continues it for longer, in a new work directory.

The new run starts with the whole state of the old run's newest checkpoint: parameters, running
statistics, optimizer state, step and `extra`. Learning rates and length may differ. No other key
that changes a step may. The old work directory is only read.
"""

import dataclasses
from pathlib import Path

import numpy as np

from cnn_jax import errors, optim
from cnn_jax.contracts import Description, TrainState
from cnn_jax.plan import Plan
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runs.checkpoint import Restored
from cnn_jax.runs.courses import Course
from cnn_jax.runtime import files
from cnn_jax.train import decisions, programs, state
from cnn_jax.train.job import Job
from cnn_jax.train.lengths import schedule_steps
from cnn_jax.train.store import Directory

# Keys and sections that may differ between the two runs: rates, length, evaluation.
_FREE = ("eval", "init.extend", *programs.RATES, "train.steps_per_call")
_MOST_COMPARED = 10**6  # steps whose rates are compared


@dataclasses.dataclass(frozen=True)
class Origin:
    """The finished run that a new run extends.

    Attributes:
      directory: its work directory.
      plan: its config.
      description: the description of its data set.
      step: the number of steps that it took.
    """

    directory: Path
    plan: Plan
    description: Description
    step: int


@dataclasses.dataclass(frozen=True)
class Extension:
    """The start of a run that extends another one.

    Attributes:
      origin: the other run.
      content: the content of its last checkpoint, with the state on the devices of the new run.
      course: the initial state of early stopping and of 'plateau' in the new run.
    """

    origin: Origin
    content: Restored[TrainState]
    course: Course


def find(plan: Plan) -> tuple[Plan, Origin]:
    """Opens the run that `init.extend` names, and checks that it is complete and fits the plan.

    Args:
      plan: the config of the new run.

    Returns:
      The plan with the automatic values of the old run, and that run.

    Raises:
      UserError: there is no such run, it is not finished or its last checkpoint is damaged, or the
        plan differs from its config in more than rates and length.
    """
    origin = directory(plan)
    _check_phases(files.local(plan.init.extend, "init.extend"), origin)
    stored = workdir.load_plan(origin)
    plan = workdir.filled(origin, plan, stored)
    if changed := workdir.changes(stored, plan, _FREE):
        raise errors.UserError(
            f"the run in {origin} can be extended with other learning rates and another length "
            "only; leave out --config to use its config, or give the same values:\n"
            + "\n".join(changed.values())
        )
    step = _last_step(origin)
    return plan, Origin(origin, stored, workdir.load_description(origin), step)


def directory(plan: Plan) -> Path:
    """Returns the work directory that `init.extend` names; of a run in phases, that of the last."""
    return workdir.last_phase(files.local(plan.init.extend, "init.extend"))


def _check_phases(given: Path, last: Path) -> None:
    """Raises a UserError if `given` is a run in phases, and not all of them have begun.

    Args:
      given: the work directory that the user names.
      last: that of its last phase with a checkpoint.
    """
    count = len(workdir.load_plan(given).phases)
    if count and last != workdir.phase(given, count):
        raise errors.UserError(
            f"the run in {given} is not finished: it stopped in {last.name} of {count} phases; "
            f"finish it first, by its own command with --workdir={given}, or extend {last}"
        )


def start(origin: Origin, job: Job) -> Extension:
    """Reads the last state of a finished run.

    Args:
      origin: the finished run.
      job: the parts of the run that extends it.

    Raises:
      UserError: the new run is not longer than the old one, or the checkpoint is of another network
        or optimizer.
    """
    if job.total_steps <= origin.step:
        keys = job.plan.train
        length = f"train.steps {keys.steps}" if keys.steps else f"train.epochs {keys.epochs:g}"
        raise errors.UserError(
            f"the run in {origin.directory} has taken {origin.step:,} steps, and {length} gives "
            f"{job.total_steps:,}; the length counts from the start of that run: set a greater one"
        )
    shape = job.feed.description.input_shape
    like = state.abstract(job.objective, job.optimizer, shape, job.layout)
    content = Directory(origin.directory).restore(origin.step, like)
    return Extension(origin, content, decisions.extended(content.course, origin.plan, job.plan))


def notes(given: Extension, job: Job) -> list[str]:
    """Returns messages on the steps that are added, and on the learning rate where they begin.

    Args:
      given: the start of the run.
      job: the parts of the run.
    """
    origin = given.origin
    step, total = origin.step, job.total_steps
    lines = [f"extending {origin.directory}: from step {step:,} to step {total:,}"]
    epoch = job.feed.steps_per_epoch
    if job.schedule is None:
        return [*lines, f"learning rate: the optimizer's own, at its count of {step:,} updates"]
    length = schedule_steps(origin.plan, epoch)  # Early stopping may have ended the run before.
    old, _ = optim.of_plan(origin.plan.optim, length, epoch, origin.plan.train.batch_size)
    if old is None:
        return lines
    then = float(old(step - 1, np)) * given.content.course.rate_factor
    now = float(job.schedule(step - 1, np)) * given.course.rate_factor
    rule = _rule(job.plan, step, length, total, epoch)
    lines.append(f"learning rate in step {step:,}: {then:.6g} then, {now:.6g} now; {rule}")
    if not _are_equal(old, job.schedule, step):
        lines.append(
            f"a run of {total:,} steps from its start would have had other learning rates so far"
        )
    return lines


def _rule(plan: Plan, step: int, length: int, total: int, steps_per_epoch: int) -> str:
    """Describes how the learning-rate schedule goes on after the old run.

    Args:
      plan: the config of the new run.
      step: the number of steps of the old run.
      length: the length of the old schedule in steps.
      total: the length of the new one.
      steps_per_epoch: the length of an epoch in steps.
    """
    schedule = plan.optim.schedule
    match schedule.name:
        case "cosine" | "one_cycle" | "polynomial" if not schedule.cycle_epochs:
            end = f"the {schedule.name} ends at step {total:,}"
            return end if total == length else f"{end} instead of {length:,}"
        case "step":
            edges = {epoch: round(epoch * steps_per_epoch) for epoch in schedule.boundary_epochs}
            behind = [f"{epoch:g}" for epoch, edge in edges.items() if edge < step]
            ahead = [f"{epoch:g}" for epoch, edge in edges.items() if step <= edge < total]
            return (
                f"boundary epochs behind: {', '.join(behind) or 'none'}; "
                f"ahead: {', '.join(ahead) or 'none'}"
            )
        case name:
            return f"the schedule {name} goes on"


def _are_equal(old: optim.Schedule, new: optim.Schedule, count: int) -> bool:
    """Returns True if two schedules have the same rates in the first `count` steps.

    Of long runs, a million evenly spaced steps are compared.
    """
    steps = np.unique(np.linspace(0, count - 1, min(count, _MOST_COMPARED)).round().astype(int))
    return np.array_equal(old(steps, np), new(steps, np))


def _last_step(directory: Path) -> int:
    """Returns the number of steps that a finished run took.

    Raises:
      UserError: the run is not finished, or the checkpoint of its end is damaged or missing.
    """
    ends = [row["step"] for row in logs.read(directory) if row["split"] == logs.FINAL]
    newest = checkpoint.newest(directory / workdir.CHECKPOINTS)
    if not ends:
        at = "before its first checkpoint" if newest is None else f"at step {newest:,}"
        raise errors.UserError(
            f"the run in {directory} is not finished: it stopped {at}; finish it first, by its own "
            f"command with --workdir={workdir.whole(directory)}"
        )
    if newest is None or newest != ends[-1]:
        rest = "none is undamaged" if newest is None else f"the newest undamaged one is {newest}"
        raise errors.UserError(
            f"the run in {directory} lacks the checkpoint of its last step {ends[-1]}: {rest}; "
            f"repeat its own command with --workdir={workdir.whole(directory)} to train the lost "
            "steps again"
        )
    return newest
