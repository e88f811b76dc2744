"""A run: its work directory, lock, signals and resuming."""

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cnn_jax import data, errors, optim, plan
from cnn_jax.contracts import Description, Evaluator, Objective, Source, TrainState, Variables
from cnn_jax.data import pipeline, sources
from cnn_jax.objectives import averaged
from cnn_jax.ops.native import library
from cnn_jax.runs import logs
from cnn_jax.runs import workdir as workdirs
from cnn_jax.runs.checkpoint import Restored
from cnn_jax.runtime import compilation_cache, console, determinism, files, malloc, sharding
from cnn_jax.runtime.console import Progress
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import (
    checks,
    extension,
    loop,
    out_of_memory,
    phases,
    start,
    state,
    weights,
)
from cnn_jax.train import job as jobs
from cnn_jax.train.extension import Extension
from cnn_jax.train.given import Given
from cnn_jax.train.job import Job
from cnn_jax.train.outcome import Outcome
from cnn_jax.train.phases import After, Part
from cnn_jax.train.recorder import Recorder, Watch
from cnn_jax.train.store import Directory, Memory, Store
from cnn_jax.train.weights import Fitted


def run(
    config: ConfigDict | Mapping[str, Any] | plan.Plan,
    workdir: str | Path | None = None,
    *,
    source: Source | None = None,
    objective: Objective | None = None,
    evaluators: Mapping[str, Evaluator] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> Outcome:
    """Trains until the run is complete, or until a signal or `watch` stops it.

    A run that was stopped continues when the call is repeated with its work directory. The function
    also works in a thread and in a notebook. Runs of one process that differ in rates and lengths
    only share one compilation.

    Args:
      config: a config; `cnn_jax/sections` lists its keys. Missing keys take their defaults.
      workdir: the work directory; it is made if it does not exist. None keeps everything in memory.
      source: the data set, in place of `data.source`; see `data.from_arrays`.
      objective: network and loss, in place of those that the config names.
      evaluators: evaluators by name, beside the run's own; their values are logged as 'name/value'.
        The name 'classification' replaces the run's own.
      optimizer: an optimizer with its own learning rate, in place of the section `optim`.
      watch: called with each line of the log; True stops the run as SIGTERM does: it is saved. In
        a run in phases, a line has the number of its phase as 'phase', and its steps count from
        the start of that phase.
      progress: False to print nothing.

    Raises:
      UserError: a value of the config, the data or the directory is not allowed, or the run
        diverged.
    """
    if watch is not None and not callable(watch):
        raise errors.UserError(f"watch= must be a function of a row, got {type(watch).__name__}")
    given = Given(source, objective, evaluators or {}, optimizer)
    plan_ = given.record(plan.read(config))
    directory = None if workdir is None else files.local(workdir, "workdir")
    malloc.keep_freed_memory()

    def one(part: Part) -> After:
        return _one(part, given, _numbered(watch, part.number), progress)

    if plan_.phases:
        if directory is not None:
            _prepare(plan_, Directory(workdirs.last_phase(directory)))
        return phases.run(plan_, given, directory, one, progress=progress)
    return one(Part(plan_, directory)).outcome


def _numbered(watch: Watch | None, phase: int) -> Watch | None:
    """Returns a watch that receives the number of the phase with each line, if it is not 0."""
    if watch is None or not phase:
        return watch
    return lambda row: watch({**row, "phase": phase})


def _one(part: Part, given: Given, watch: Watch | None, progress: bool) -> After:
    """Runs a phase, or a run without phases."""
    plan_ = given.record(part.plan)
    store = Memory() if part.directory is None else _directory(part.directory, plan_)
    _prepare(plan_, store)
    advice = out_of_memory.for_training(plan_)
    output = contextlib.nullcontext() if progress else library.silent()
    with output, out_of_memory.explained(advice):
        part = dataclasses.replace(part, plan=plan_)
        return _begin(part, given, store, watch, progress and sharding.is_primary())


def _prepare(plan_: plan.Plan, store: Store) -> None:
    """Sets what JAX reads when it starts, starts it, and checks its devices."""
    store.pin_threads()
    if plan_.runtime.deterministic:
        determinism.enable()
    sharding.check_devices()
    if plan_.compilation_cache:
        compilation_cache.use_cache()


def _directory(directory: Path, plan_: plan.Plan) -> Directory:
    """Returns the store of a work directory, which knows the run that it extends."""
    origin = extension.directory(plan_) if plan_.init.extend else None
    return Directory(directory, origin)


def _begin(part: Part, given: Given, store: Store, watch: Watch | None, progress: bool) -> After:
    """Checks everything, makes the parts of the run and runs them."""
    plan_, before = part.plan, part.before
    checks.check(plan_, given, warn=part.warn)
    plan_ = store.check(plan_)
    begins = not store.has_checkpoint()
    origin, found, fitted = None, None, None
    if begins and before is not None:
        fitted = Fitted(weights.by_path(before.variables))
    elif begins and plan_.init.extend:
        plan_, origin = extension.find(plan_)
    elif begins and plan_.init.weights:
        plan_, found = start.find_checked(plan_, given, progress=progress)
    plan_ = dataclasses.replace(plan_, data=sources.resolve(plan_.data))
    if progress:
        title = errors.printable(sources.title(plan_.data))
        print(f"reading the data set {title} …", file=sys.stderr)
    opened = _opened(plan_, given.source)
    if found is not None:
        fitted = start.fit(plan_, found, opened.class_names, progress=progress)
        found = None  # The arrays in it are not kept in memory for the run.
    known, earlier = store.description(), origin or before
    if known is None and earlier is not None:
        known = earlier.description
    job = jobs.make(plan_, opened, known, given)
    with contextlib.closing(job.feed):
        begin: Extension | Variables | None = None
        if origin is not None:
            begin = extension.start(origin, job)
        elif fitted is not None:
            begin = start.begin(job, fitted, progress=progress)
        part.ready(job.plan, job.feed.size("train"))
        with store.opened(job, opened), Interruption() as interruption:
            return _run(job, store, begin, watch, interruption, progress)


def _opened(options: plan.Plan, given: Source | None) -> Source:
    """Returns the given source, checked, or that of the plan."""
    if given is None:
        return data.open_source(options.data)
    sources.check_source(given)
    return sources.keep_classes(given, options.data)


def _run(
    job: Job,
    store: Store,
    begin: Extension | Variables | None,
    watch: Watch | None,
    interruption: Interruption,
    progress: bool,
) -> After:
    extended = begin if isinstance(begin, Extension) else None
    newest = store.newest()  # It moves damaged checkpoints out of the way of new ones.
    first = extended.origin.step if extended else newest or 0
    with Progress(
        job.total_steps,
        initial=first,
        every_seconds=job.plan.log.progress_seconds,
        enabled=progress,
    ) as terminal:
        restored = _start_state(job, store, first, begin, terminal)
        current = restored.state
        terminal.message(_start_block(job, store.title, state.count(current.params)))
        with Recorder(job, store, first, restored, terminal, watch) as recorder:
            if first:
                for line in _notes(job, store, first, extended, recorder.is_complete(first)):
                    terminal.message(line)
            if extended:
                recorder.start_from(str(extended.origin.directory))
            step = first
            if not recorder.is_complete(first):
                current, step = loop.train(job, current, first, recorder, interruption)
            digest = ""
            test: dict[str, float] = {}
            if recorder.is_complete(step):
                digest, test = recorder.finish(step, current)
            # The loop has seen the signal that ended a run before its last step.
            stopped = recorder.stopped or not digest or interruption.requested()
    rows, last = recorder.log.rows, averaged.select(current, job.plan.eval.weights)
    outcome = Outcome(
        step=step,
        signal=0 if digest else interruption.signal,
        params_sha256=digest,
        early=bool(digest) and step < job.total_steps,
        best_step=recorder.best_step(),
        test=test,
        validation=_last_validation(rows),
        history=rows,
        params=current.params,
        batch_stats=current.batch_stats,
        model=getattr(job.objective, "model", None),
        _load=store.loader(job, last),
    )
    signal = interruption.signal
    return After(outcome, job.plan, job.feed.description, last, stopped, signal)


def _last_validation(rows: Sequence[logs.Row]) -> dict[str, float]:
    validations = [row for row in rows if row["split"] == "validation"]
    return logs.values(validations[-1]) if validations else {}


def _notes(
    job: Job, store: Store, first: int, extended: Extension | None, is_complete: bool
) -> list[str]:
    """Returns lines on the place where a run continues, and on changes of its environment."""
    if extended is not None:
        lines = extension.notes(extended, job)
    elif is_complete:
        early = ", where it was stopped early" if first < job.total_steps else ""
        lines = [f"the run is complete at step {first} of {job.total_steps}{early}"]
    else:
        lines = [f"resuming at step {first} of {job.total_steps}"]
    return [*lines, *filter(None, [store.note()])]


def _start_state(
    job: Job,
    store: Store,
    first: int,
    begin: Extension | Variables | None,
    terminal: Progress,
) -> Restored[TrainState]:
    """Returns the content of the checkpoint to start from, or the initial state."""
    if isinstance(begin, Extension):
        return begin.content._replace(course=begin.course)
    if first:
        shape = job.feed.description.input_shape
        return store.restore(first, state.abstract(job.objective, job.optimizer, shape, job.layout))
    with terminal.phase("compiling the initial state"):
        return Restored(start.initial(job, begin), {})


def _start_block(job: Job, place: str, parameters: int) -> str:
    options, feed = job.plan, job.feed
    sizes = ", ".join(f"{feed.size(split):,} {split}" for split in feed.splits)
    devices = jax.devices()
    weights = averaged.title(options, options.eval.weights)
    return console.block(
        {
            "network": _network(job, parameters),
            "data": f"{sources.title(options.data)}: {sizes}",
            "storage": _storage(options),
            "input": f"{_input(feed.description)}, {feed.description.num_classes} classes",
            "pixels": f"mean {_numbers(feed.description.mean)}, deviation "
            f"{_numbers(feed.description.std)}",
            "devices": f"{len(devices)} {devices[0].device_kind}",
            "batch": f"{_batch(options)}, {feed.steps_per_epoch} steps per epoch",
            "steps": f"{job.total_steps:,} ({job.total_steps / feed.steps_per_epoch:.4g} epochs)",
            **_scaled_rate(job),
            **({"ranked weights": weights} if weights else {}),
            "work directory": place,
        }
    )


def _batch(options: plan.Plan) -> str:
    """Returns the batch size and, with microbatches, their number and size, as text."""
    size, parts = options.train.batch_size, options.train.microbatches
    return f"{size} in {parts} parts of {size // parts}" if parts > 1 else f"{size}"


def _scaled_rate(job: Job) -> dict[str, str]:
    """Returns the line about the learning rate if the batch size scales it, else {}."""
    options = job.plan.optim
    if job.schedule is None or not options.reference_batch_size:
        return {}
    rate = optim.scaled_rate(options, job.plan.train.batch_size)
    given = f"{options.learning_rate:g} at batch size {options.reference_batch_size}"
    return {"learning rate": f"{rate:.6g} ({options.batch_scaling} scaling of {given})"}


def _input(description: Description) -> str:
    """Returns the input shape as text, with the size in evaluation if it differs."""
    height, width, channels = description.input_shape
    shape = f"{height}x{width}x{channels}"
    if description.eval_size is None:
        return shape
    height, width = description.eval_size
    return f"{shape} ({height}x{width} in evaluation)"


def _network(job: Job, parameters: int) -> str:
    """Returns name, size and dtype of the network, or the type of a given objective."""
    model = job.plan.model
    if job.plan.train.objective == plan.GIVEN:
        return f"of the given {type(job.objective).__name__}, {parameters:,} parameters"
    return f"{model.name}, {parameters:,} parameters, {model.dtype}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _storage(options: plan.Plan) -> str:
    if options.data.storage == "resident":
        return "resident: all images are in the memory of each device"
    workers = pipeline.num_workers(options.data.workers)
    made = f"worker processes: {workers}" if workers else "no worker processes, but threads"
    return f"streamed: images are read in each epoch; {made}"
