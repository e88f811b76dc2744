"""The place where a run keeps its log and checkpoints: a work directory, or memory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from cnn_jax import predictor
from cnn_jax.contracts import Description, Source, TrainState, Variables
from cnn_jax.data import selection, stratified
from cnn_jax.metrics import Totals
from cnn_jax.plan import Plan
from cnn_jax.predictor import Predictor
from cnn_jax.runs import checkpoint, environment, logs, workdir
from cnn_jax.runtime import sharding
from cnn_jax.train.job import Job


class Checkpoints(Protocol):
    """Writer of a run's checkpoints; see `checkpoint.Checkpoints`."""

    def save(
        self, step: int, state: TrainState, pending: Totals, rank: float | None = None
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

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Totals]:
        """Returns the state of a checkpoint, and the metrics since the last log line before it."""
        ...

    def log(self, start: int) -> Log:
        """Returns the log, continued at step `start`."""
        ...

    def checkpoints(self, plan: Plan) -> Checkpoints:
        """Returns the writer of checkpoints."""
        ...

    def predictor(self, job: Job, last: Variables) -> Predictor:
        """Returns the predictor of the best validated weights, else of the `last` ones."""
        ...


class Directory:
    """Store of a run in a work directory."""

    def __init__(self, directory: Path) -> None:
        """Keeps the path; nothing is made or read."""
        self._directory = directory
        self._checkpoints = directory / workdir.CHECKPOINTS

    @property
    def title(self) -> str:
        """The path of the work directory."""
        return str(self._directory)

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

        Processes other than the primary one do nothing.
        """
        if not sharding.is_primary():
            yield
            return
        with workdir.lock(self._directory):
            if job.plan.data.split:
                stratified.write(self._directory, selection.names(source, job.plan.data))
            workdir.save_plan(self._directory, job.plan)
            workdir.save_description(self._directory, job.feed.description)
            environment.add(self._directory)
            yield

    def newest(self) -> int | None:
        """Returns the step of the newest undamaged checkpoint, or None; moves damaged ones away."""
        damaged = self._directory / workdir.DAMAGED_CHECKPOINTS
        return checkpoint.newest(self._checkpoints, damaged)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Totals]:
        """Returns the state and the pending metrics of a checkpoint."""
        restored = checkpoint.restore(self._checkpoints, step, like)
        return restored.state, restored.pending

    def log(self, start: int) -> Log:
        """Returns the writer of metrics.jsonl; on processes other than the primary, of memory."""
        return logs.RunLog(self._directory, start) if sharding.is_primary() else logs.MemoryLog()

    def checkpoints(self, plan: Plan) -> Checkpoints:
        """Returns the writer of the directory's checkpoints."""
        return checkpoint.Checkpoints(self._checkpoints, plan.checkpoint.keep, plan.eval.monitor)

    def predictor(self, job: Job, last: Variables) -> Predictor:
        """Returns the predictor of the best checkpoint by validation."""
        del last
        return predictor.load(self._directory, "best", objective=job.objective)


class Memory:
    """Store of a run without a work directory: rows and the best validated weights are kept."""

    title = "none: everything stays in memory"

    def __init__(self) -> None:
        """Starts empty."""
        self._best: _Best | None = None

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

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Totals]:
        """Raises NotImplementedError; it is never called, because `newest` returns None."""
        raise NotImplementedError

    def log(self, start: int) -> Log:
        """Returns a log in memory."""
        del start
        return logs.MemoryLog()

    def checkpoints(self, plan: Plan) -> Checkpoints:
        """Returns an object that keeps a copy of the best validated weights."""
        del plan
        self._best = _Best()
        return self._best

    def predictor(self, job: Job, last: Variables) -> Predictor:
        """Returns the predictor of the best validated weights, else of the last ones."""
        best = self._best.variables if self._best is not None else None
        description = job.feed.description
        return predictor.of_parts(job.plan, description, job.objective, best or last)


class _Best:
    """Keeps a copy of the best validated weights; see `Checkpoints`.

    Attributes:
      variables: the copy; None before the first validation.
    """

    def __init__(self) -> None:
        self.variables: dict[str, Any] | None = None
        self._rank = checkpoint.NOT_VALIDATED

    def save(
        self, step: int, state: TrainState, pending: Totals, rank: float | None = None
    ) -> None:
        """Copies the weights if they rank at least as high as the earlier ones."""
        del step, pending
        if rank is not None and rank >= self._rank:
            self._rank = rank
            # The next step reuses the memory of the state.
            self.variables = jax.tree.map(jnp.copy, state.variables)

    def close(self) -> None:
        """Does nothing; there are no files."""
