"""Train a network: the one loop, and what happens beside it."""

import contextlib
import dataclasses
import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from cnn_jax import checkpoint, logs, metrics, sharding, state, workdir
from cnn_jax import job as jobs
from cnn_jax.evaluate import evaluate
from cnn_jax.interruption import Interruption


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
    batches = job.dataset.train_inputs(start)
    with (
        contextlib.closing(_Recorder(job, directory, start, restored.pending)) as recorder,
        tqdm(
            total=job.total_steps, initial=start, unit="step", disable=not sharding.is_primary()
        ) as progress,
    ):
        for step in range(start + 1, job.total_steps + 1):
            current, sums = job.train_step(current, next(batches))
            stop = interruption.requested(step)
            recorder.after_step(step, current, sums, stop)
            progress.update()
            if stop and step < job.total_steps:
                return Outcome(step, interruption.signal)
        return recorder.finish(current)


class _Recorder:
    """What happens beside training: the log, validation, checkpoints."""

    def __init__(
        self, job: jobs.Job, directory: Path, start_step: int, pending: metrics.Totals
    ) -> None:
        self._job = job
        self._start_step = start_step
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

    def after_step(
        self, step: int, current: state.TrainState, sums: metrics.Sums, stop: bool
    ) -> None:
        """Take in one step, then log, validate and save where it is due."""
        job, every = self._job, self._job.config
        self._window.add(step, sums)
        self._throughput.add(every.train.batch_size)
        if step == self._start_step + 1:
            jax.block_until_ready(current)  # Compiling is not throughput.
            self._throughput.resume()
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
        has_test = "test" in self._job.dataset.splits
        test = self._evaluate(step, current, "test") if has_test else {}
        digest = state.sha256(jax.device_get(current.params))
        self._write(step, logs.FINAL, {"params_sha256": digest})
        return Outcome(step, params_sha256=digest, test=test)

    def _log_training(self, step: int) -> None:
        values = metrics.mean(self._window.totals())
        self._window.clear()
        values["learning_rate"] = float(self._job.schedule(step - 1))
        self._write(step, "train", values | self._throughput.rate())

    def _evaluate(self, step: int, current: state.TrainState, split: str) -> dict[str, float]:
        job = self._job
        size = job.config.eval.batch_size
        values = evaluate(job.eval_step, current.variables, job.dataset, split, size).values
        self._write(step, split, values)
        return values

    def _write(self, step: int, split: str, values: dict[str, float] | dict[str, str]) -> None:
        if self._log is not None:
            self._log.write(step, step / self._job.dataset.steps_per_epoch, split, values)
