"""The actions beside training: the log, validation and checkpoints."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from cnn_jax import errors, evaluators, metrics
from cnn_jax.contracts import Result, Sums, TrainState, Variables
from cnn_jax.objectives import averaged
from cnn_jax.runs import logs
from cnn_jax.runs.checkpoint import Restored
from cnn_jax.runtime import sharding
from cnn_jax.runtime.console import Progress
from cnn_jax.train import decisions, out_of_memory
from cnn_jax.train.job import LOG, SAVE, VALIDATE, Job
from cnn_jax.train.state import sha256
from cnn_jax.train.store import Checkpoints, Log, Store
from cnn_jax.train.waiting import Waiting
from cnn_jax.train.window import Window

Watch = Callable[[logs.Row], bool | None]
"""Called with each line of the log; True stops the run as SIGTERM does."""


class Recorder:
    """Logs, validates and saves a run where it is due.

    Attributes:
      waiting: measures the time that the devices wait for data.
      log: the log.
      stopped: True once `watch` has asked to stop.
    """

    def __init__(
        self,
        job: Job,
        store: Store,
        start: int,
        begin: Restored[TrainState],
        progress: Progress,
        watch: Watch | None = None,
    ) -> None:
        """Opens the log and the checkpoints of a run.

        Args:
          job: the parts of the run.
          store: the place of log and checkpoints.
          start: the step that the run starts from.
          begin: the content of the checkpoint that the run starts from, or its initial state.
          progress: the terminal.
          watch: called with each line of the log.
        """
        self._job = job
        self._start = start
        self._course = begin.course
        self._progress = progress
        self._compile_seconds: dict[str, float] = {}
        self._window = Window(begin.pending)
        self._throughput = logs.Throughput()
        self._watch = watch
        self.stopped = False
        self.waiting = Waiting()
        self.log: Log = store.log(start)
        self._checkpoints: Checkpoints = store.checkpoints(job.plan)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for the checkpoints, flushes the log and draws the curves.

        After an error of the run, the same cause can make these fail. The first error is raised.
        """
        with contextlib.ExitStack() as stack:  # An error of one must not keep the others open.
            if kind is not None:
                stack.enter_context(contextlib.suppress(errors.UserError))
            stack.callback(self.log.close)
            stack.callback(self._checkpoints.close)
            stack.callback(self.waiting.close)

    def start_from(self, origin: str) -> None:
        """Logs the run that this one extends, in a line of its own.

        Args:
          origin: its work directory.
        """
        self._write(self._start, logs.START, {"extends": origin})

    def is_complete(self, step: int) -> bool:
        """Returns True if `step` is the last step, or if early stopping has ended the run."""
        return step == self._job.total_steps or self._course.stopped

    def best_step(self) -> int:
        """Returns the step of the checkpoint 'best', or 0; the newest of equal rank."""
        rows = [
            row for row in self.log.rows if row["split"] == "validation" and self._monitored in row
        ]
        return max(((self._rank(row), row["step"]) for row in rows), default=(0.0, 0))[1]

    def rates(self, call: range) -> np.ndarray:
        """Returns the learning rate of each step of a call; see `Job.rates`."""
        return self._job.rates(call, self._course.rate_factor)

    @contextlib.contextmanager
    def compiling(self, call: range) -> Iterator[None]:
        """Reports the time that the first call takes, which compiles the training step."""
        if call.start != self._start:
            yield
            return
        began = time.perf_counter()
        with self._progress.phase("compiling the training step"):
            yield
        self._compile_seconds = {"compile_seconds": time.perf_counter() - began}

    def after_call(self, call: range, state: TrainState, sums: Sums, stop: bool) -> bool:
        """Adds the metrics of a call, then logs, validates and saves where it is due.

        Args:
          call: the range of the call's steps, counted from 0 at the start of the run.
          state: the state after the call.
          sums: the metrics of the steps.
          stop: True if the run stops here, so that its state must be saved.

        Returns:
          True if the run stops here: because of `stop`, the watch, or early stopping.
        """
        if call.start == self._start:
            jax.block_until_ready(state)  # The throughput counts from the second call on.
        job, step = self._job, call.stop
        self._window.add(call, sums)
        self._throughput.add(job.plan.train.batch_size * len(call))
        self._progress.advance(len(call))
        if job.is_due(LOG, step):
            self._log_training(step)
        self._throughput.pause()
        validate = "validation" in job.feed.splits and job.is_due(VALIDATE, step)
        rank = self._validate(step, state) if validate else None
        if rank is not None:
            self._decide(step, rank)
        stop = stop or self.stopped or self._course.stopped
        if validate or stop or job.is_due(SAVE, step):
            # A state that has diverged is not saved: totals raises DivergedError.
            self._checkpoints.save(step, state, self._window.totals(), rank, self._course)
            self.waiting.clear()
        self._throughput.resume()
        return stop

    def finish(self, step: int, state: TrainState) -> tuple[str, dict[str, float]]:
        """Closes the log of a complete run.

        Args:
          step: the number of steps taken.
          state: the last state.

        Returns:
          The digest of the final parameters, and their metrics on the test split; no metrics
          without such a split.
        """
        test = {}
        if "test" in self._job.feed.splits:
            evaluations = {**self._job.evaluate, **self._job.evaluate_last}
            test = self._evaluate(step, state, "test", evaluations)
        whole = jax.jit(lambda params: params, out_shardings=self._job.layout.whole)
        digest = sha256(jax.device_get(whole(state.params)))
        self._write(step, logs.FINAL, {"params_sha256": digest})
        return digest, test

    def _log_training(self, step: int) -> None:
        values = metrics.mean(self._window.totals())
        self._window.clear()
        if self._job.schedule is not None:  # The step that was just taken is number step - 1.
            values["learning_rate"] = float(self.rates(range(step - 1, step))[0])
        values |= self._throughput.rate(self.waiting.seconds()) | self._compile_seconds
        self._compile_seconds = {}
        self._write(step, "train", values)
        shown = ("loss", self._job.plan.eval.monitor, "images_per_second")
        self._progress.show({name: values[name] for name in shown if name in values})

    def _validate(self, step: int, state: TrainState) -> float:
        """Returns the rank of the state among the checkpoints: higher is better."""
        self._window.totals()  # Raises DivergedError; a state that has diverged is not validated.
        values = self._evaluate(step, state, "validation", self._job.evaluate)
        return self._rank(values)

    def _rank(self, values: Mapping[str, Any]) -> float:
        """Returns the rank of a validation: higher is better. None (NaN) has the lowest rank."""
        value = values[self._monitored]
        if value is None:
            return -math.inf
        return float(value) * (1 if self._job.plan.eval.monitor_mode == "max" else -1)

    @property
    def _monitored(self) -> str:
        """The label of the value that ranks validations."""
        options = self._job.plan.eval
        return evaluators.label(evaluators.MAIN, options.monitor, options.weights)

    def _decide(self, step: int, rank: float) -> None:
        """Lowers the learning rate or ends the run where the plan says so after a validation."""
        job, old = self._job, self._course
        new = decisions.after_validation(old, rank, job.plan)
        if new.stopped and not job.is_due(LOG, step):
            self._log_training(step)  # The last steps of a run are always logged.
        self._course = new
        if step == job.total_steps:  # No step is left to take, or to lower the rate of.
            return
        if new.stopped:
            self._progress.message(
                f"early stopping at step {step:,}: no better {self._monitored} in "
                f"{new.stale_validations} validations; the best is that of step "
                f"{self.best_step():,}, the checkpoint 'best'"
            )
        elif new.rate_factor != old.rate_factor:
            self._progress.message(
                f"step {step:,}: no better {self._monitored} in {old.bad_validations + 1} "
                "validations; the learning rate is multiplied by "
                f"{new.rate_factor / old.rate_factor:g}"
            )

    def _evaluate(
        self,
        step: int,
        state: TrainState,
        split: str,
        evaluations: Mapping[str, evaluators.Evaluate],
    ) -> dict[str, float]:
        """Runs evaluations on a split, logs their values and returns them by label.

        Where the state has an average of the variables, they are run on it too.
        """
        values: dict[str, float] = {}
        for weights in averaged.available(self._job.plan):
            variables = averaged.select(state, weights)
            for name, evaluate in evaluations.items():
                result = self._run(evaluate, variables, split)
                for key, value in result.values.items():
                    values[evaluators.label(name, key, weights)] = value
        self._write(step, split, values)
        return values

    def _run(self, evaluate: evaluators.Evaluate, variables: Variables, split: str) -> Result:
        with out_of_memory.explained(out_of_memory.for_evaluation(self._job.plan)):
            return evaluate(
                variables,
                split,
                self._job.plan.eval.batch_size,
                lambda done, total: self._progress.beside(split, done, total),
            )

    def _write(self, step: int, split: str, values: Mapping[str, float | str]) -> None:
        row = logs.make_row(step, step / self._job.feed.steps_per_epoch, split, values)
        self.log.write(row)
        if self._watch is not None:
            wants_to_stop = bool(self._watch(dict(row))) if sharding.is_primary() else False
            self.stopped |= sharding.agree(wants_to_stop)
