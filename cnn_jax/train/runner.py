"""A run: its work directory, lock, signals and resuming."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cnn_jax import data, plan
from cnn_jax.contracts import TrainState
from cnn_jax.data import pipeline, selection, sources, stratified
from cnn_jax.metrics import Totals
from cnn_jax.runs import checkpoint, workdir
from cnn_jax.runtime import console, sharding
from cnn_jax.runtime.console import Progress
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import job as jobs
from cnn_jax.train import loop, state
from cnn_jax.train.job import Job
from cnn_jax.train.recorder import Recorder


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
      step: the number of steps taken.
      signal: the number of the signal that stopped the run early; 0 if it is complete.
      params_sha256: the digest of the final parameters; empty if the run was stopped.
      test: metrics of the final parameters on the test split; empty without such a split.
    """

    step: int
    signal: int = 0
    params_sha256: str = ""
    test: dict[str, float] = dataclasses.field(default_factory=dict)


def run(
    config: ConfigDict | dict[str, Any] | plan.Plan,
    directory: str | Path,
    *,
    progress: bool = True,
) -> Outcome:
    """Trains, or continues the run in `directory`, until it is complete or a signal stops it.

    Args:
      config: a config; `cnn_jax/plan.py` lists its keys.
      directory: the work directory; it is made if it does not exist.
      progress: False to print nothing.

    Raises:
      UserError: a value of the config, the data or the directory is not allowed, or the run
        diverged.
    """
    plan_ = plan.read(config)
    directory = Path(directory)
    jobs.check(plan_)
    plan_ = workdir.check(directory, plan_)
    plan_ = dataclasses.replace(plan_, data=sources.resolve(plan_.data))
    progress = progress and sharding.is_primary()
    if progress:
        print(f"reading the data set {sources.title(plan_.data)} …", file=sys.stderr)
    source = data.open_source(plan_.data)
    job = jobs.make(plan_, source, workdir.find_description(directory))
    with (
        contextlib.closing(job.feed),
        workdir.lock(directory) if sharding.is_primary() else contextlib.nullcontext(),
        Interruption() as interruption,
    ):
        if sharding.is_primary():
            if job.plan.data.split:
                stratified.write(directory, selection.names(source, job.plan.data))
            workdir.save_plan(directory, job.plan)
            workdir.save_description(directory, job.feed.description)
        return _run(job, directory, interruption, progress)


def _run(job: Job, directory: Path, interruption: Interruption, progress: bool) -> Outcome:
    found = checkpoint.newest(
        directory / workdir.CHECKPOINTS, directory / workdir.DAMAGED_CHECKPOINTS
    )
    start = found or 0
    with Progress(
        job.total_steps,
        initial=start,
        every_seconds=job.plan.log.progress_seconds,
        enabled=progress,
    ) as terminal:
        current, pending = _start_state(job, directory, found, terminal)
        terminal.message(_start_block(job, directory, state.count(current.params)))
        if start:
            terminal.message(f"resuming at step {start} of {job.total_steps}")
        with Recorder(job, directory, start, pending, terminal) as recorder:
            current, step = loop.train(job, current, start, recorder, interruption)
            if step < job.total_steps:
                return Outcome(step, interruption.signal)
            digest, test = recorder.finish(current)
            return Outcome(step, params_sha256=digest, test=test)


def _start_state(
    job: Job, directory: Path, found: int | None, terminal: Progress
) -> tuple[TrainState, Totals]:
    """Returns the state to start from, and the metrics since the last log line before it."""
    shape = job.feed.description.input_shape
    if found is None:
        with terminal.phase("compiling the initial state"):
            fresh = state.create(job.objective, job.optimizer, shape, job.plan.seed, job.layout)
            return jax.block_until_ready(fresh), {}
    like = state.abstract(job.objective, job.optimizer, shape, job.layout)
    restored = checkpoint.restore(directory / workdir.CHECKPOINTS, found, like)
    return restored.state, restored.pending


def _start_block(job: Job, directory: Path, parameters: int) -> str:
    options, feed = job.plan, job.feed
    height, width, channels = feed.description.input_shape
    sizes = ", ".join(f"{feed.size(split):,} {split}" for split in feed.splits)
    devices = jax.devices()
    return console.block(
        {
            "network": f"{options.model.name}, {parameters:,} parameters, {options.model.dtype}",
            "data": f"{sources.title(options.data)}: {sizes}",
            "storage": _storage(options),
            "input": f"{height}x{width}x{channels}, {feed.description.num_classes} classes",
            "pixels": f"mean {_numbers(feed.description.mean)}, deviation "
            f"{_numbers(feed.description.std)}",
            "devices": f"{len(devices)} {devices[0].device_kind}",
            "batch": f"{options.train.batch_size}, {feed.steps_per_epoch} steps per epoch",
            "steps": f"{job.total_steps:,} ({job.total_steps / feed.steps_per_epoch:.4g} epochs)",
            "work directory": str(directory),
        }
    )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _storage(options: plan.Plan) -> str:
    if options.data.storage == "resident":
        return "resident: all images are in the memory of each device"
    workers = pipeline.num_workers(options.data.workers)
    made = f"worker processes: {workers}" if workers else "no worker processes, but threads"
    return f"streamed: images are read in each epoch; {made}"
