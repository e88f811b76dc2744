"""Phases of a run: runs in DIR/phase-1, DIR/phase-2, ..., each from the weights of the one before.

Each phase has a log, checkpoints, an optimizer state, a schedule and an order of examples of its
own. DIR has the config with `phases`, and the joined log of all phases.
"""

import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import jax
from absl import logging

from cnn_jax import errors, plan, unread
from cnn_jax.contracts import Description, Variables
from cnn_jax.plan import Init, Plan
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runs.place import Place
from cnn_jax.runtime import sharding
from cnn_jax.train import checks
from cnn_jax.train.given import Given
from cnn_jax.train.outcome import Outcome


@dataclasses.dataclass(frozen=True)
class After:
    """A phase, or a run without phases, that has ended or was stopped.

    Attributes:
      outcome: the result.
      plan: its config, with values in place of automatic ones.
      description: the description of its data set.
      variables: the weights after its last step, by `eval.weights` raw or averaged.
      stopped: True if a signal or `watch` asked to stop, even if the last step was already taken.
      signal: the number of that signal; 0 without one.
    """

    outcome: Outcome
    plan: Plan
    description: Description
    variables: Variables
    stopped: bool
    signal: int


@dataclasses.dataclass(frozen=True)
class Before:
    """The end of a phase, for the phase that follows it.

    Attributes:
      plan: its config, with values in place of automatic ones.
      description: the description of its data set.
      variables: its weights, as NumPy arrays, so that they take no memory of the devices.
    """

    plan: Plan
    description: Description
    variables: Variables


@dataclasses.dataclass(frozen=True)
class Part:
    """A phase, or a run without phases, that is to start or to continue.

    Attributes:
      plan: its config.
      directory: its work directory; None for a run in memory.
      number: the number of the phase, from 1; 0 for a run without phases.
      before: the phase before, which has ended in this process; None for the first one that this
        process runs.
      ready: called before anything is written, with the config, which has values in place of
        automatic ones, and with the number of training examples.
      warn: True to log warnings of keys without effect.
    """

    plan: Plan
    directory: Path | None
    number: int = 0
    before: Before | None = None
    ready: Callable[[Plan, int], None] = lambda *_: None
    warn: bool = True


def run(
    whole: Plan,
    given: Given,
    directory: Path | None,
    one: Callable[[Part], After],
    *,
    progress: bool,
) -> Outcome:
    """Runs the phases of a config one after another.

    A continued run starts at the last phase that has an undamaged checkpoint.

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
    if directory is not None:
        _check_directories(directory, whole, plans)
    first = 1 if directory is None else reached(directory, len(plans))
    histories = [*_histories(directory, first)]
    before: Before | None = None
    with _Directory(directory, whole) as opened:
        for number in itertools.count(first):
            if progress and sharding.is_primary():
                print(_heading(whole, plans[number - 1], number), file=sys.stderr)
            opened.begin(number)
            after = one(_part(plans, number, given, before, opened))
            histories.append(after.outcome.history)
            is_last = number == len(plans)
            if is_last or after.stopped or not after.outcome.params_sha256:
                return _outcome(after, logs.joined(histories), is_last)
            before = Before(after.plan, after.description, _on_host(after.variables))
            del after  # Its arrays are in the memory of the devices.
    raise AssertionError("the last phase returns")


def _outcome(after: After, history: list[logs.Row], is_last: bool) -> Outcome:
    """Returns the outcome of a run. If phases are left, it is that of a stopped run.

    Args:
      after: the phase that ran last.
      history: the log of all phases.
      is_last: True if no phase follows.
    """
    outcome = dataclasses.replace(after.outcome, history=history)
    if is_last:
        return outcome
    return dataclasses.replace(outcome, signal=after.signal, params_sha256="", early=False, test={})


def _part(
    plans: Sequence[Plan], number: int, given: Given, before: Before | None, opened: "_Directory"
) -> Part:
    """Returns a phase, ready to start or to continue.

    Args:
      plans: the plans of all phases.
      number: the number of the phase, from 1.
      given: the objects that `train.run` received.
      before: the phase before; see `Part`.
      opened: the work directory of the run.
    """
    folder = None if opened.path is None else workdir.phase(opened.path, number)
    phase = plans[number - 1]
    if number > 1:
        phase = _following(phase, folder, before)

    def ready(known: Plan, examples: int) -> None:
        rest = [_filled(each, known) for each in plans[number:]]
        _check_each(rest, given, number + 1, examples)
        opened.write()

    return Part(phase, folder, number, before, ready, warn=False)


def _on_host(variables: Variables) -> Variables:
    """Returns a copy of variables in the memory of each host, as NumPy arrays."""
    whole = jax.jit(lambda tree: tree, out_shardings=sharding.make_layout().whole)
    copied: Variables = jax.device_get(whole(variables))
    return copied


def reached(directory: Path, count: int) -> int:
    """Returns the number of the last phase that has an undamaged checkpoint; 1 if none has.

    Args:
      directory: the work directory of the run.
      count: the number of its phases.
    """
    for number in range(count, 1, -1):
        if checkpoint.newest(workdir.phase(directory, number) / workdir.CHECKPOINTS) is not None:
            return number
    return 1


def _histories(directory: Path | None, first: int) -> Iterator[list[logs.Row]]:
    """Yields the log of each phase that ended in an earlier process: those before `first`."""
    if directory is not None:
        for number in range(1, first):
            yield logs.read(workdir.phase(directory, number))


def _check(whole: Plan, plans: Sequence[Plan], given: Given) -> None:
    """Checks the configs of all phases before the data is read, and logs their warnings.

    Args:
      whole: the config with `phases`.
      plans: the plans of the phases.
      given: the objects that `train.run` received.

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
        is_unread = all(values[path] != phase[path] for phase in own)
        if is_unread and values[path] != defaults[path] and path not in ("phases", "seed"):
            logging.warning("%s %r has no effect: all phases set it", path, values[path])
    found = [unread.warnings(given.record(phase)) for phase in plans]
    for sentence in dict.fromkeys(itertools.chain.from_iterable(found)):
        numbers = [str(number) for number, each in enumerate(found, start=1) if sentence in each]
        place = "" if len(numbers) == len(plans) else f"phases, entry {', '.join(numbers)}: "
        logging.warning("%s%s", place, errors.printable(sentence))


def _check_directories(directory: Path, whole: Plan, plans: Sequence[Plan]) -> None:
    """Checks that a run in phases may use `directory`; changes nothing.

    Args:
      directory: the work directory of the run.
      whole: the config with `phases`.
      plans: the plans of the phases.

    Raises:
      UserError: it, or the directory of a phase, holds another run, is locked, cannot be written,
        or has a link in place of one of its files or of `phase-N`.
    """
    workdir.check(directory, whole)
    is_new = not os.path.lexists(directory / workdir.CONFIG)
    for number, phase in enumerate(plans, start=1):
        folder = workdir.phase(directory, number)
        if is_new and os.path.lexists(folder / workdir.CONFIG):
            raise errors.UserError(
                f"{directory} has {folder.name} but no {workdir.CONFIG}, so its run is unknown; "
                "choose another --workdir"
            )
        workdir.check(folder, phase if number == 1 else dataclasses.replace(phase, init=Init()))


def _check_each(
    plans: Sequence[Plan], given: Given, first: int, examples: int | None = None
) -> None:
    """Checks plans of phases, each with `checks.check`.

    Batch size and length are checked, too, if the number of training examples is known.

    Args:
      plans: the plans.
      given: the objects that `train.run` received.
      first: the number of the first one.
      examples: the number of training examples; None before the data is read.

    Raises:
      UserError: a plan is not allowed; the message has the number of the phase.
    """
    for number, phase in enumerate(plans, start=first):
        try:
            checks.check(phase, given, warn=False)
            if examples is not None:
                checks.check_length(phase, given, examples)
        except errors.UserError as error:
            raise errors.UserError(f"phases, entry {number}: {error}") from error


def _following(phase: Plan, folder: Path | None, before: Before | None) -> Plan:
    """Returns the plan of a phase after the first: network and data as the earlier phases had them.

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
    """Returns the plan of a phase that follows another one, which needs no `init`.

    Args:
      phase: the plan of the phase; its sections `model` and `data` may have automatic values.
      known: a plan of the run with the values that replace these.
    """
    filled = plan.fill_automatic(phase, known)
    return dataclasses.replace(phase, model=filled.model, data=filled.data, init=Init())


def _heading(whole: Plan, phase: Plan, number: int) -> str:
    """Returns the line that announces a phase: its number, and its values that `whole` lacks."""
    changed = plan.differences(dataclasses.replace(whole, phases=()), phase)
    settings = (f"{path} {new!r}" for path, (_, new) in changed.items() if path != "seed")
    title = f"phase {number} of {len(whole.phases)}: {', '.join(settings)}"
    return errors.printable(title.removesuffix(": "))


class _Directory:
    """Work directory of a run in phases: its lock, its config and its joined log.

    On processes other than the primary one, and for a run in memory, nothing is written.

    Attributes:
      path: the directory; None for a run in memory.
    """

    def __init__(self, path: Path | None, whole: Plan) -> None:
        """Keeps the arguments; nothing is made before `write`.

        Args:
          path: the directory; None for a run in memory.
          whole: the config with `phases`.
        """
        self.path = path
        self._whole = whole
        self._number = 0
        self._is_new = False
        self._place: Place | None = None
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def begin(self, number: int) -> None:
        """Notes the phase that begins, after the log of the phases before it is joined.

        Raises:
          UserError: the directory was deleted or moved, or a file cannot be read or written.
        """
        if self._place is not None:
            self._place.check()
            self._join()
        self._number = number

    def write(self) -> None:
        """Locks the directory and writes the config; does nothing if that was done before.

        Raises:
          UserError: another process has locked the directory, or it cannot be written.
        """
        if self.path is None or self._place is not None or not sharding.is_primary():
            return
        self._lock.enter_context(workdir.lock(self.path))
        self._place = Place(self.path)
        self._is_new = not os.path.lexists(self.path / workdir.CONFIG)
        workdir.save_plan(self.path, self._whole)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Joins the logs and unlocks the directory.

        If a new run fails before its first phase has a config, that of the directory is removed.
        """
        with self._lock:
            if self.path is None or self._place is None:
                return
            if kind is None:
                self._place.check()
                self._join()
                return
            with contextlib.suppress(errors.UserError, OSError):  # The first error is shown.
                self._place.check()
                self._join()
                first = workdir.phase(self.path, 1)
                if self._is_new and not os.path.lexists(first / workdir.CONFIG):
                    (self.path / workdir.CONFIG).unlink(missing_ok=True)

    def _join(self) -> None:
        if self.path is not None:
            logs.join(self.path, self._number)
