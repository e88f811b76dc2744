"""Phases of a run: runs in DIR/phase-1, DIR/phase-2, ..., each from the weights of the one before.

Each phase has a log, checkpoints, an optimizer state, a schedule and an order of examples of its
own. DIR has the config with `phases`, and the joined log of all phases.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import logging

from cnn_jax import errors, plan
from cnn_jax.contracts import Description, Variables
from cnn_jax.plan import Init, Plan
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runtime import sharding
from cnn_jax.train import checks
from cnn_jax.train.given import Given
from cnn_jax.train.outcome import Outcome


@dataclasses.dataclass(frozen=True)
class After:
    """A run at its end.

    Attributes:
      outcome: the result.
      plan: its config, without automatic values.
      description: the description of its data set.
      variables: the weights after its last step, by `eval.weights` raw or averaged.
    """

    outcome: Outcome
    plan: Plan
    description: Description
    variables: Variables


@dataclasses.dataclass(frozen=True)
class Part:
    """A phase, or a run without phases.

    Attributes:
      plan: its config.
      directory: its work directory; None for a run in memory.
      before: the phase before, which has ended in this process; None for the first one, and for one
        that continues from a checkpoint.
      check_rest: checks the phases that follow, given a config without automatic values and the
        number of training examples.
    """

    plan: Plan
    directory: Path | None
    before: After | None = None
    check_rest: Callable[[Plan, int], None] = lambda *_: None


def run(
    whole: Plan,
    given: Given,
    directory: Path | None,
    one: Callable[[Part], After],
    *,
    progress: bool,
) -> Outcome:
    """Runs phases one after another, from the first that has not ended.

    Args:
      whole: the config with `phases`.
      given: the objects that `train.run` received.
      directory: the work directory; None keeps everything in memory.
      one: runs a phase, or continues it.
      progress: True to print the number and the settings of each phase.

    Returns:
      The outcome of the last phase that ran, with the log of all phases.

    Raises:
      UserError: the settings of a phase are not allowed, or see `train.run`.
    """
    plans = plan.phases(whole)
    _check(whole, plans, given)

    def part(number: int, before: After | None = None) -> Part:
        if progress and sharding.is_primary():
            print(_heading(whole, plans[number - 1], number), file=sys.stderr)
        folder = None if directory is None else workdir.phase(directory, number)
        phase = plans[number - 1]
        if number > 1:
            phase = _following(phase, folder, before)
        return Part(phase, folder, before, _checker(plans[number:], given, number + 1))

    with _opened(directory, whole):
        first = 1 if directory is None else reached(directory, len(plans))
        histories = [*_histories(directory, first)]
        after = one(part(first))
        histories.append(after.outcome.history)
        for number in range(first + 1, len(plans) + 1):
            if not after.outcome.params_sha256:  # A signal or `watch` has stopped the phase.
                break
            after = one(part(number, after))
            histories.append(after.outcome.history)
    return dataclasses.replace(after.outcome, history=logs.joined(histories))


def reached(directory: Path, count: int) -> int:
    """Returns the number of the last phase that has a checkpoint; 1 if none has.

    Args:
      directory: the work directory of the run.
      count: the number of its phases.
    """
    for number in range(count, 1, -1):
        if checkpoint.newest(workdir.phase(directory, number) / workdir.CHECKPOINTS) is not None:
            return number
    return 1


def _histories(directory: Path | None, first: int) -> Iterator[list[logs.Row]]:
    """Yields the logs of the phases before the `first` one that runs in this process."""
    if directory is not None:
        for number in range(1, first):
            yield logs.read(workdir.phase(directory, number))


def _check(whole: Plan, plans: Sequence[Plan], given: Given) -> None:
    """Checks all phases as far as network and data set are known.

    Raises:
      UserError: the settings of a phase are not allowed, or the run extends another one.
    """
    if whole.init.extend:
        raise errors.UserError(
            f"init.extend {whole.init.extend!r} continues one run, and the config has phases; "
            "leave one of them out; init.weights starts phases from a run"
        )
    _check_each(plans, given, 1)
    values, defaults = plan.flatten(whole), plan.flatten(Plan())
    own = [plan.flatten(phase) for phase in plans]
    for path in defaults:
        unread = all(values[path] != phase[path] for phase in own)
        if unread and values[path] != defaults[path] and path not in ("phases", "seed"):
            logging.warning("%s %r has no effect: all phases set it", path, values[path])


def _check_each(
    plans: Sequence[Plan], given: Given, first: int, examples: int | None = None
) -> None:
    """Checks plans of phases; see `checks.check` and `checks.check_length`.

    Args:
      plans: the plans.
      given: the objects that `train.run` received.
      first: the number of the first one.
      examples: the number of training examples; None if it is not known yet.
    """
    for number, phase in enumerate(plans, start=first):
        try:
            checks.check(phase, given, warn=False)
            if examples is not None:
                checks.check_length(phase, given, examples)
        except errors.UserError as error:
            raise errors.UserError(f"phases, entry {number}: {error}") from error


def _checker(plans: Sequence[Plan], given: Given, first: int) -> Callable[[Plan, int], None]:
    """Returns the function that checks phases once network and data set are known.

    Args:
      plans: the plans of the phases.
      given: the objects that `train.run` received.
      first: the number of the first one.
    """

    def check(known: Plan, examples: int) -> None:
        _check_each([_filled(phase, known) for phase in plans], given, first, examples)

    return check


def _following(phase: Plan, folder: Path | None, before: After | None) -> Plan:
    """Returns the plan of a phase after the first, with the network and the data of the run.

    Args:
      phase: the plan.
      folder: its work directory.
      before: the phase before, or None if the phase continues from a checkpoint in `folder`.

    Raises:
      UserError: the config in `folder` names code that the plan does not name.
    """
    if before is not None:
        return _filled(phase, before.plan)
    if folder is None:
        return phase
    stored = workdir.load_plan(folder)
    workdir.filled(folder, phase, stored)  # It checks the names of code.
    return _filled(phase, stored)


def _filled(phase: Plan, known: Plan) -> Plan:
    """Returns a phase's plan with the automatic values of another one in `model` and `data`."""
    filled = plan.fill_automatic(phase, known)
    return dataclasses.replace(phase, model=filled.model, data=filled.data, init=Init())


def _heading(whole: Plan, phase: Plan, number: int) -> str:
    """Returns a line with the number of a phase and the settings of its own."""
    changed = plan.differences(dataclasses.replace(whole, phases=()), phase)
    settings = (f"{path} {new!r}" for path, (_, new) in changed.items() if path != "seed")
    title = f"phase {number} of {len(whole.phases)}: {', '.join(settings)}"
    return errors.printable(title.removesuffix(": "))


@contextlib.contextmanager
def _opened(directory: Path | None, whole: Plan) -> Iterator[None]:
    """Locks a work directory of phases; writes its config and, at the end, its joined log.

    If a new run fails before its first phase has a config, that of the directory is removed.

    Raises:
      UserError: the directory holds another run, is locked, or cannot be written.
    """
    if directory is None:
        yield
        return
    workdir.check(directory, whole)
    if not sharding.is_primary():
        yield
        return
    with workdir.lock(directory):
        is_new = not (directory / workdir.CONFIG).exists()
        workdir.save_plan(directory, whole)
        try:
            yield
        except Exception:
            with contextlib.suppress(errors.UserError):  # The first error is the one to show.
                logs.join(directory, len(whole.phases))
            if is_new and not (workdir.phase(directory, 1) / workdir.CONFIG).exists():
                (directory / workdir.CONFIG).unlink(missing_ok=True)
            raise
        logs.join(directory, len(whole.phases))
