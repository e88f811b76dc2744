"""A run: its work directory, lock, signals and resuming."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cnn_jax import data, errors, optim, plan
from cnn_jax.contracts import Description, Evaluator, Objective, Source, TrainState, Tree, Variables
from cnn_jax.data import pipeline, sources
from cnn_jax.objectives import averaged
from cnn_jax.objectives.distilled import TEACHER
from cnn_jax.ops.native import library
from cnn_jax.predictor import Predictor
from cnn_jax.runs import logs
from cnn_jax.runs.checkpoint import Restored
from cnn_jax.runtime import compilation_cache, console, determinism, files, malloc, sharding
from cnn_jax.runtime.console import Progress
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import extension, loop, out_of_memory, start, state, teacher
from cnn_jax.train import job as jobs
from cnn_jax.train.extension import Extension
from cnn_jax.train.given import Given
from cnn_jax.train.job import Job
from cnn_jax.train.recorder import Recorder, Watch
from cnn_jax.train.store import Directory, Memory, Store


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
      step: the number of steps taken.
      signal: the number of the signal that stopped the run early; 0 if it is complete, or if
        `watch` stopped it.
      params_sha256: the digest of the final parameters, which repeats only with the same versions
        and machine; empty if the run was stopped.
      early: True if early stopping has ended the run, which is complete.
      best_step: the step of the best validation and of the checkpoint 'best'; 0 without a
        validation.
      test: metrics of the final parameters on the test split; empty without such a split.
      validation: metrics of the last validation; empty without a validation.
      history: the lines of metrics.jsonl, for `pandas.DataFrame(outcome.history)`.
      params: the parameters after the last step.
      batch_stats: the running statistics after the last step.
      model: the network, a Linen module; None if a given objective has no attribute `model`.
    """

    step: int
    signal: int = 0
    params_sha256: str = ""
    early: bool = False
    best_step: int = 0
    test: dict[str, float] = dataclasses.field(default_factory=dict)
    validation: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[logs.Row] = dataclasses.field(default_factory=list, repr=False, compare=False)
    params: Tree = dataclasses.field(default=None, repr=False, compare=False)
    batch_stats: Tree = dataclasses.field(default=None, repr=False, compare=False)
    model: Any = dataclasses.field(default=None, repr=False, compare=False)
    _load: Callable[[], Predictor] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The predictor of the best validated weights; of the last ones without a validation.

        It is loaded at its first use. A run with a work directory reads it from there.
        """
        if self._load is None:
            raise AttributeError("this outcome was not made by train.run, so it has no predictor")
        return self._load()


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
      watch: called with each line of the log; True stops the run as SIGTERM does: it is saved.
      progress: False to print nothing.

    Raises:
      UserError: a value of the config, the data or the directory is not allowed, or the run
        diverged.
    """
    if watch is not None and not callable(watch):
        raise errors.UserError(f"watch= must be a function of a row, got {type(watch).__name__}")
    given = Given(source, objective, evaluators or {}, optimizer)
    plan_ = given.record(plan.read(config))
    malloc.keep_freed_memory()
    store = Memory() if workdir is None else _directory(workdir, plan_)
    store.pin_threads()
    if plan_.runtime.deterministic:
        determinism.enable()
    sharding.check_devices()
    if plan_.compilation_cache:
        compilation_cache.use_cache()
    advice = out_of_memory.for_training(plan_)
    output = contextlib.nullcontext() if progress else library.silent()
    with output, out_of_memory.explained(advice):
        return _begin(plan_, given, store, watch, progress and sharding.is_primary())


def _directory(workdir: str | Path, plan_: plan.Plan) -> Directory:
    """Returns the store of a work directory, which knows the run that it extends."""
    origin = files.local(plan_.init.extend, "init.extend") if plan_.init.extend else None
    return Directory(files.local(workdir, "workdir"), origin)


def _begin(
    plan_: plan.Plan, given: Given, store: Store, watch: Watch | None, progress: bool
) -> Outcome:
    """Checks everything, makes the parts of the run and runs them."""
    jobs.check(plan_, given)
    plan_ = store.check(plan_)
    begins = bool(plan_.init.extend or plan_.init.weights) and not store.has_checkpoint()
    origin, found, fitted = None, None, None
    if begins and plan_.init.extend:
        plan_, origin = extension.find(plan_)
    elif begins:
        plan_, found = start.find(plan_, given.objective, progress=progress)
        jobs.check(plan_, given, warn=False)  # The network and the size of its images are known.
    plan_ = dataclasses.replace(plan_, data=sources.resolve(plan_.data))
    if progress:
        title = errors.printable(sources.title(plan_.data))
        print(f"reading the data set {title} …", file=sys.stderr)
    opened = _opened(plan_, given.source)
    if found is not None:
        fitted = start.fit(plan_, found, opened.class_names, progress=progress)
        found = None  # The arrays in it are not kept in memory for the run.
    known = origin.description if origin is not None else store.description()
    job = jobs.make(plan_, opened, known, given)
    with contextlib.closing(job.feed):
        begin: Extension | Variables | None = None
        if origin is not None:
            begin = extension.start(origin, job)
        elif fitted is not None:
            begin = start.begin(job, fitted, progress=progress)
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
) -> Outcome:
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
        if first:
            for line in _notes(job, store, first, extended):
                terminal.message(line)
        with Recorder(job, store, first, restored, terminal, watch) as recorder:
            if extended:
                recorder.start_from(str(extended.origin.directory))
            step = first
            if not recorder.is_complete(first):
                current, step = loop.train(job, current, first, recorder, interruption)
            digest = ""
            test: dict[str, float] = {}
            if recorder.is_complete(step):
                digest, test = recorder.finish(step, current)
    rows, last = recorder.log.rows, averaged.select(current, job.plan.eval.weights)
    return Outcome(
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


def _last_validation(rows: Sequence[logs.Row]) -> dict[str, float]:
    validations = [row for row in rows if row["split"] == "validation"]
    return logs.values(validations[-1]) if validations else {}


def _notes(job: Job, store: Store, first: int, extended: Extension | None) -> list[str]:
    """Returns lines on the place where a run continues, and on changes of its environment."""
    if extended is not None:
        lines = extension.notes(extended, job)
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
    if job.teacher is not None:
        begin = {**(begin or {}), TEACHER: teacher.variables(job.plan)}
    with terminal.phase("compiling the initial state"):
        return Restored(jax.block_until_ready(job.programs.create(begin)), {})


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
