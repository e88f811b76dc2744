"""Train a network: the one loop, and what happens beside it."""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from cnn_jax import metrics
from cnn_jax.evaluate import evaluate
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runtime import sharding
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import job as jobs
from cnn_jax.train import state


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      step: how many steps were taken.
      signal: the number of the signal that stopped it early, 0 if it is complete.
      params_sha256: digest of the final parameters; empty if it was stopped.
      test: metrics of the final parameters on the test split; empty without such a split.
    """

    step: int
    signal: int = 0
    params_sha256: str = ""
    test: dict[str, float] = dataclasses.field(default_factory=dict)


def run(config: ConfigDict, directory: Path) -> Outcome:
    """Train, or continue the run that `directory` holds, until it is complete or stopped.

    Args:
      config: see configs/base.py.
      directory: the work directory; made if it does not exist.

    Raises:
      ValueError: bad input, or the run diverged.
    """
    job = jobs.make(config)
    workdir.check(directory, config.to_dict())
    with workdir.lock(directory) if sharding.is_primary() else contextlib.nullcontext():
        if sharding.is_primary():
            workdir.save(directory, workdir.CONFIG, config.to_dict())
            workdir.save(directory, workdir.DATASET, job.dataset.description())
        with Interruption() as interruption:
            return _train(job, directory, interruption)


def _train(job: jobs.Job, directory: Path, interruption: Interruption) -> Outcome:
    restored = checkpoint.restore_newest(
        directory / workdir.CHECKPOINTS, job.fresh, directory / workdir.DAMAGED_CHECKPOINTS
    ) or checkpoint.Restored(job.fresh, {})
    current, start = restored.state, int(restored.state.step)
    if start:
        tqdm.write(f"resuming at step {start} of {job.total_steps}", file=sys.stderr)
    with (
        contextlib.closing(_Recorder(job, directory, start, restored.pending)) as recorder,
        tqdm(
            total=job.total_steps, initial=start, unit="step", disable=not sharding.is_primary()
        ) as progress,
    ):
        for call, inputs in job.dataset.train_inputs(job.calls(start)):
            called = time.perf_counter()
            current, sums = job.train_steps(current, inputs, len(call))
            if call.start == start:
                recorder.after_compiling(time.perf_counter() - called, current)
            stop = interruption.requested()
            recorder.after_call(call, current, sums, stop)
            progress.update(len(call))
            if stop and call.stop < job.total_steps:
                return Outcome(call.stop, interruption.signal)
        return recorder.finish(current)


class _Recorder:
    """What happens beside training: the log, validation, checkpoints."""

    def __init__(
        self, job: jobs.Job, directory: Path, start_step: int, pending: metrics.Totals
    ) -> None:
        self._job = job
        self._compiling: dict[str, float] = {}
        self._window = metrics.Window(pending)
        self._throughput = logs.Throughput()
        self._log = logs.RunLog(directory, start_step) if sharding.is_primary() else None
        keep = job.config.checkpoint.keep
        self._checkpoints = checkpoint.Checkpoints(directory / workdir.CHECKPOINTS, keep)

    def close(self) -> None:
        """Wait for the checkpoints, flush the log and draw the curves."""
        self._checkpoints.close()
        if self._log is not None:
            self._log.close()

    def after_compiling(self, seconds: float, current: state.TrainState) -> None:
        """Tell how long it took; the throughput counts from the end of the first call on."""
        self._compiling = {"compile_seconds": seconds}
        if self._log is not None:
            tqdm.write(f"compiled in {seconds:.1f} s", file=sys.stderr)
        jax.block_until_ready(current)

    def after_call(
        self, call: range, current: state.TrainState, sums: metrics.Sums, stop: bool
    ) -> None:
        """Take in the steps of a call, then log, validate and save where it is due."""
        job, every, step = self._job, self._job.config, call.stop
        self._window.add(call, sums)
        self._throughput.add(every.train.batch_size * len(call))
        last = step == job.total_steps
        if step % every.log.every_steps == 0 or last:
            self._log_training(step)
        self._throughput.pause()
        validate = "validation" in job.dataset.splits and (step % job.eval_steps == 0 or last)
        if validate or step % every.checkpoint.every_steps == 0 or last or stop:
            pending = self._window.totals()  # Nothing that has diverged is validated or saved.
            accuracy = self._evaluate(step, current, "validation")["top1"] if validate else None
            self._checkpoints.save(step, current, pending, accuracy)
        self._throughput.resume()

    def finish(self, current: state.TrainState) -> Outcome:
        """Evaluate the final parameters on the test split and close the log with their digest."""
        step = self._job.total_steps
        test = self._evaluate(step, current, "test") if "test" in self._job.dataset.splits else {}
        digest = state.sha256(jax.device_get(current.params))
        self._write(step, logs.FINAL, {"params_sha256": digest})
        return Outcome(step, params_sha256=digest, test=test)

    def _log_training(self, step: int) -> None:
        values = metrics.mean(self._window.totals())
        self._window.clear()
        values["learning_rate"] = float(self._job.schedule(step - 1))
        self._write(step, "train", values | self._throughput.rate() | self._compiling)
        self._compiling = {}

    def _evaluate(self, step: int, current: state.TrainState, split: str) -> dict[str, float]:
        job, size = self._job, self._job.config.eval.batch_size
        values = evaluate(job.eval_step, current.variables, job.dataset, split, size).values
        self._write(step, split, values)
        return values

    def _write(self, step: int, split: str, values: dict[str, float] | dict[str, str]) -> None:
        if self._log is not None:
            self._log.write(step, step / self._job.dataset.steps_per_epoch, split, values)
