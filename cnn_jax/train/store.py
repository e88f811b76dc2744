"""The place where a run keeps its log and checkpoints: a work directory, or memory."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from cnn_jax import errors, predictor
from cnn_jax.contracts import Description, Source, TrainState, Variables
from cnn_jax.data import selection, stratified
from cnn_jax.metrics import Totals
from cnn_jax.objectives import averaged
from cnn_jax.plan import Plan
from cnn_jax.predictor import Predictor
from cnn_jax.runs import checkpoint, environment, logs, workdir
from cnn_jax.runs.checkpoint import Restored
from cnn_jax.runs.courses import Course
from cnn_jax.runtime import sharding, threads
from cnn_jax.train.job import Job


class Checkpoints(Protocol):
    """Writer of a run's checkpoints; see `checkpoint.Checkpoints`."""

    def save(
        self, step: int, state: TrainState, pending: Totals, rank: float | None, course: Course
    ) -> None: ...

    def close(self) -> None: ...


class Log(Protocol):
    """Writer of a run's log; `rows` are all of its lines, as in metrics.jsonl."""

    rows: list[logs.Row]

    def write(self, row: logs.Row) -> None: ...

    def close(self) -> None: ...


class Store(Protocol):
    """The place where one run keeps config, log and checkpoints: a directory, or memory.

    Attributes:
      title: the place in words.
    """

    @property
    def title(self) -> str: ...

    def pin_threads(self) -> None:
        """Uses the threads of the run's last start, if JAX has not started; see `threads`."""
        ...

    def note(self) -> str:
        """Returns one line on what changes the run's results since its last start, or ""."""
        ...

    def check(self, given: Plan) -> Plan:
        """Checks that a run with the plan may use the place, and fills in its automatic values.

        Raises:
          UserError: the place holds a run with another config, or cannot be written.
        """
        ...

    def description(self) -> Description | None:
        """Returns the description of the data set that an earlier start stored."""
        ...

    def has_checkpoint(self) -> bool:
        """Returns True if the run continues from a checkpoint."""
        ...

    def opened(self, job: Job, source: Source) -> contextlib.AbstractContextManager[None]:
        """Locks the place within a context, and stores config and description of the run."""
        ...

    def newest(self) -> int | None:
        """Returns the step of the checkpoint that the run continues from, or None."""
        ...

    def restore(self, step: int, like: TrainState) -> Restored[TrainState]:
        """Returns the content of a checkpoint."""
        ...

    def log(self, start: int) -> Log:
        """Returns the log, continued at step `start`."""
        ...

    def checkpoints(self, plan: Plan) -> Checkpoints:
        """Returns the writer of checkpoints."""
        ...

    def loader(self, job: Job, last: Variables) -> Callable[[], Predictor]:
        """Returns the function that opens the best validated weights, else the `last` ones.

        The function can be pickled and does not hold the data of the job.
        """
        ...


class Directory:
    """Store of a run in a work directory."""

    def __init__(self, directory: Path, origin: Path | None = None) -> None:
        """Keeps the paths; nothing is made or read.

        Args:
          directory: the work directory.
          origin: the work directory of the run that is extended; its number of threads is kept.
        """
        self._directory = directory
        self._origin = origin
        self._checkpoints = directory / workdir.CHECKPOINTS
        self._earlier: list[dict[str, Any]] = []  # The earlier starts in environment.json.

    @property
    def title(self) -> str:
        """The path of the work directory."""
        return str(self._directory)

    def pin_threads(self) -> None:
        """Uses as many threads of XLA as the last start of the run, or of the one it extends."""
        with contextlib.suppress(errors.UserError):  # `opened` raises it, after other checks.
            self._earlier = environment.read(self._directory)
            if self._origin is not None and not self._earlier:
                self._earlier = environment.read(self._origin)
        threads.pin(environment.num_threads(self._earlier))

    def note(self) -> str:
        """Returns what has changed in the environment; see `environment.note`."""
        return environment.note(self._earlier)

    def check(self, given: Plan) -> Plan:
        """Checks the work directory; see `workdir.check`."""
        return workdir.check(self._directory, given)

    def description(self) -> Description | None:
        """Returns the description in dataset.json, or None before the first start."""
        return workdir.find_description(self._directory)

    def has_checkpoint(self) -> bool:
        """Returns True if there is an undamaged checkpoint; moves nothing."""
        return checkpoint.newest(self._checkpoints) is not None

    @contextlib.contextmanager
    def opened(self, job: Job, source: Source) -> Iterator[None]:
        """Locks the directory, and writes config, description and environment of the run.

        If a new run fails before its first checkpoint and log line, its config is removed, so that
        the directory can be used with another one. Processes other than the primary one do nothing.
        """
        if not sharding.is_primary():
            yield
            return
        with workdir.lock(self._directory):
            is_new = not (self._directory / workdir.CONFIG).exists()
            try:
                self._write_parts(job, source)
                yield
            except Exception:
                if is_new:
                    self._forget()
                raise

    def _write_parts(self, job: Job, source: Source) -> None:
        if job.plan.data.split:
            stratified.write(self._directory, selection.names(source, job.plan.data))
        workdir.save_plan(self._directory, job.plan)
        workdir.save_description(self._directory, job.feed.description)
        environment.add(self._directory)

    def _forget(self) -> None:
        """Removes the files that would bind the directory to a run with nothing to continue."""
        with contextlib.suppress(errors.UserError, OSError):  # The first error is the one to show.
            if checkpoint.steps(self._checkpoints) or logs.read(self._directory):
                return
            for name in (workdir.CONFIG, workdir.DATASET, workdir.METRICS):
                (self._directory / name).unlink(missing_ok=True)
            self._checkpoints.rmdir()

    def newest(self) -> int | None:
        """Returns the step of the newest undamaged checkpoint, or None; moves damaged ones away."""
        damaged = self._directory / workdir.DAMAGED_CHECKPOINTS
        return checkpoint.newest(self._checkpoints, damaged)

    def restore(self, step: int, like: TrainState) -> Restored[TrainState]:
        """Returns the content of a checkpoint.

        Raises:
          UserError: the checkpoint is damaged, or a copy of another one.
        """
        restored = checkpoint.restore(self._checkpoints, step, like)
        if int(restored.state.step) != step:
            raise errors.UserError(
                f"{self._checkpoints / str(step)} holds the state of step "
                f"{int(restored.state.step)}; move it away"
            )
        return restored

    def log(self, start: int) -> Log:
        """Returns the writer of metrics.jsonl; on processes other than the primary, of memory."""
        return logs.RunLog(self._directory, start) if sharding.is_primary() else logs.MemoryLog()

    def checkpoints(self, plan: Plan) -> Checkpoints:
        """Returns the writer of the directory's checkpoints."""
        return checkpoint.Checkpoints(self._checkpoints, plan.checkpoint.keep, plan.eval.monitor)

    def loader(self, job: Job, last: Variables) -> Callable[[], Predictor]:
        """Returns the function that opens the best checkpoint by validation."""
        del last
        directory = self._directory.absolute()  # The working directory may change.
        return functools.partial(
            predictor.load, directory, "best", objective=job.objective, trust=True
        )


class Memory:
    """Store of a run without a work directory: rows and the best validated weights are kept."""

    title = "none: everything stays in memory"

    def __init__(self) -> None:
        """Starts empty."""
        self._best: _Best | None = None

    def pin_threads(self) -> None:
        """Does nothing: no earlier start is known."""

    def note(self) -> str:
        """Returns an empty line: a run in memory starts once."""
        return ""

    def check(self, given: Plan) -> Plan:
        """Returns the plan; memory can hold any run."""
        return given

    def description(self) -> Description | None:
        """Returns None: nothing was stored before."""
        return None

    def has_checkpoint(self) -> bool:
        """Returns False."""
        return False

    @contextlib.contextmanager
    def opened(self, job: Job, source: Source) -> Iterator[None]:
        """Does nothing; there is nothing to lock."""
        del job, source
        yield

    def newest(self) -> int | None:
        """Returns None: a run in memory cannot be continued."""
        return None

    def restore(self, step: int, like: TrainState) -> Restored[TrainState]:
        """Raises NotImplementedError; it is never called, because `newest` returns None."""
        raise NotImplementedError

    def log(self, start: int) -> Log:
        """Returns a log in memory."""
        del start
        return logs.MemoryLog()

    def checkpoints(self, plan: Plan) -> Checkpoints:
        """Returns an object that keeps a copy of the best validated weights."""
        self._best = _Best(plan.eval.weights)
        return self._best

    def loader(self, job: Job, last: Variables) -> Callable[[], Predictor]:
        """Returns the function that makes the predictor of the best validated weights."""
        best = self._best.variables if self._best is not None else None
        parts = job.plan, job.feed.description, job.objective, best or last
        notes = averaged.notes(job.plan, job.plan.eval.weights)
        return functools.partial(predictor.of_parts, *parts, notes=notes)


class _Best:
    """Keeps a copy of the best validated weights; see `Checkpoints`.

    Attributes:
      variables: the copy; None before the first validation.
    """

    def __init__(self, weights: str) -> None:
        """Starts empty.

        Args:
          weights: the value of `eval.weights`.
        """
        self.variables: dict[str, Any] | None = None
        self._weights = weights
        self._rank = checkpoint.NOT_VALIDATED

    def save(
        self, step: int, state: TrainState, pending: Totals, rank: float | None, course: Course
    ) -> None:
        """Copies the weights if they rank at least as high as the earlier ones."""
        del step, pending, course
        if rank is not None and rank >= self._rank:
            self._rank = rank
            # The next step reuses the memory of the state.
            self.variables = jax.tree.map(jnp.copy, averaged.select(state, self._weights))

    def close(self) -> None:
        """Does nothing; there are no files."""
