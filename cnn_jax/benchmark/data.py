"""Benchmark `data`: the input pipeline of a config, as a whole and by stage."""

import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax import data, errors, plan, train
from cnn_jax.benchmark import data_stages, report
from cnn_jax.benchmark.data_stages import Stage
from cnn_jax.benchmark.processes import Memory, PeakMemory
from cnn_jax.contracts import Inputs, Source, Sums
from cnn_jax.data import sources
from cnn_jax.data.batches import TrainBatches
from cnn_jax.data.streamed import Streamed
from cnn_jax.plan import Plan
from cnn_jax.runtime import files, sharding, threads
from cnn_jax.train import job as jobs
from cnn_jax.train import start
from cnn_jax.train.job import Job
from cnn_jax.train.waiting import Waiting

_COLUMNS = (
    *("workers", "images/s", "images/s with training", "waiting for data"),
    *("memory MiB", "workers MiB"),
)


@dataclasses.dataclass(frozen=True)
class Whole:
    """Measurements of the whole pipeline with a number of workers; one value per round.

    Attributes:
      workers: the number of worker processes.
      images_per_second: batches copied to the devices, without a training step.
      training_images_per_second: batches of training steps.
      waiting: the share of the training time in which the devices waited for data.
      memory: the largest memory; None on systems without /proc.
    """

    workers: int
    images_per_second: tuple[float, ...]
    training_images_per_second: tuple[float, ...]
    waiting: tuple[float, ...]
    memory: Memory | None

    def row(self) -> list[str]:
        """Returns the cells of the table row, in the order of `_COLUMNS`."""
        memory = (
            ["", ""] if self.memory is None else [f"{each / 2**20:.0f}" for each in self.memory]
        )
        return [
            str(self.workers),
            f"{statistics.median(self.images_per_second):.0f}",
            f"{statistics.median(self.training_images_per_second):.0f}",
            f"{statistics.median(self.waiting):.0%}",
            *memory,
        ]


@dataclasses.dataclass(frozen=True)
class Result:
    """Measurements of the input pipeline of a config.

    Attributes:
      settings: the config as it was measured.
      wholes: the whole pipeline by number of workers.
      stages: images per second of each stage alone, one value per round.
    """

    settings: Plan
    wholes: tuple[Whole, ...]
    stages: Mapping[str, tuple[float, ...]]


def run(
    settings: Plan, workers: Sequence[int], rounds: int, seconds: float, out: Path | None
) -> Result:
    """Measures the input pipeline of a config and prints two tables.

    Args:
      settings: the config. The set is streamed, also where training would keep it in memory.
      workers: the numbers of worker processes, from 0.
      rounds: the number of measurements of each figure.
      seconds: the duration of a measurement.
      out: a new JSON file for the measurements, or None.

    Raises:
      UserError: a value or the config is not allowed, the file exists, or the data or the weights
        of `init.weights` cannot be read.
    """
    if not seconds > 0:
        raise errors.UserError(f"--seconds must be greater than 0, got {seconds}")
    if out is not None and out.exists():
        raise report.exists(out)
    job, source = _open(settings)
    print(f"{sources.title(job.plan.data)}: {job.feed.size('train'):,} training images\n")
    turns = rounds * (2 * len(workers) + 1)
    with contextlib.closing(report.Table(_versions(), rounds, _COLUMNS, turns, None)) as table:
        measure = _Measurement(job, source, rounds, seconds, table.advance)
        wholes = []
        for count in workers:
            wholes.append(measure.whole(count))
            table.add(wholes[-1].row())
        stages = measure.stages()
    result = Result(job.plan, tuple(wholes), stages)
    print("", *_stage_lines(stages), sep="\n")
    if out is not None:
        files.write(out, json.dumps(_to_json(result, rounds, seconds), indent=1) + "\n")
    return result


def _open(settings: Plan) -> tuple[Job, Source]:
    """Returns the parts of a run with a streamed set, and the set.

    Network and preprocessing are those of `init.weights`, where the plan names weights.
    """
    keys = dataclasses.replace(sources.resolve(settings.data), storage="streamed")
    settings = dataclasses.replace(settings, data=keys)
    train.check(settings)
    if settings.init.weights:
        settings, _ = start.find_checked(settings, progress=True)
    source = data.open_source(settings.data)
    return jobs.make(settings, source), source


class _Measurement:
    """Measurements of one job."""

    def __init__(
        self,
        job: Job,
        source: Source,
        rounds: int,
        seconds: float,
        after_each: Callable[[], object],
    ) -> None:
        """Compiles the training step.

        Args:
          job: the parts of the run.
          source: the data set.
          rounds: the number of measurements of each figure.
          seconds: the duration of a measurement.
          after_each: called after each measurement, for a progress bar.
        """
        self._job, self._source = job, source
        self._rounds, self._seconds, self._after_each = rounds, seconds, after_each
        self._state = job.programs.create(None)
        if not isinstance(job.feed, Streamed):
            raise TypeError(f"expected a streamed set, got {type(job.feed).__name__}")
        self._batches = job.feed.host_batches()
        self._host = _host_arrays(self._batches, job.plan.train.steps_per_call)
        self._random = self._copy(self._host)
        self._train_on(self._random)

    def whole(self, workers: int) -> Whole:
        """Measures the whole pipeline."""
        keys = dataclasses.replace(self._job.plan.data, workers=workers)
        settings = dataclasses.replace(self._job.plan, data=keys)
        description = self._job.feed.description
        feed = data.bind(self._source, settings, self._job.layout, description)
        alone, training, waiting = [], [], []
        with contextlib.closing(feed), PeakMemory(os.getpid()) as memory:
            inputs = feed.train_inputs(_calls(settings, feed.steps_per_epoch))
            for _ in range(self._rounds):
                # Batches that were made before the measurement must not count.
                self._consume(inputs, most=3 * max(workers, threads.cores()) + 2)
                alone.append(self._consume(inputs))
                self._after_each()
                rate, share = self._train(inputs)
                training.append(rate)
                waiting.append(share)
                self._after_each()
        return Whole(workers, tuple(alone), tuple(training), tuple(waiting), memory.peak)

    def stages(self) -> dict[str, tuple[float, ...]]:
        """Measures each stage alone, in turns; returns images per second of each round by name."""
        job = self._job
        images = len(self._batches.rows) * job.plan.train.steps_per_call
        stages = {
            **data_stages.host_stages(self._batches, job.plan.data.decoder),
            "copy to the devices": Stage(lambda _: self._host, self._copy, images),
            "training step": Stage(lambda _: self._random, self._train_on, images),
        }
        clocks = {name: data_stages.Clock(stage) for name, stage in stages.items()}
        rates: dict[str, list[float]] = {name: [] for name in clocks}
        for _ in range(self._rounds):
            for name, clock in clocks.items():
                rates[name].append(clock.images_per_second(self._seconds))
            self._after_each()
        return {name: tuple(values) for name, values in rates.items()}

    def _copy(self, host: Mapping[str, np.ndarray]) -> Inputs:
        """Copies the arrays of a call to the devices."""
        size = self._job.plan.train.batch_size
        return jax.block_until_ready(self._job.layout.assemble(host, size, axis=1))

    def _train_on(self, inputs: Inputs) -> None:
        """Takes all steps of a call and waits for their end."""
        jax.block_until_ready(self._step(inputs, self._job.plan.train.steps_per_call))

    def _step(self, inputs: Inputs, count: int) -> Sums:
        rates = self._job.rates(range(count))
        self._state, sums = self._job.programs.train_steps(self._state, inputs, count, rates)
        return sums

    def _consume(self, inputs: Iterator[tuple[range, Inputs]], most: int = 2**40) -> float:
        """Takes the inputs of calls without training; returns images per second.

        Args:
          inputs: the inputs.
          most: the largest number of calls, if the duration allows more.
        """
        start, steps, elapsed = time.perf_counter(), 0, 0.0
        for call, arrays in itertools.islice(inputs, most):
            jax.block_until_ready(arrays)
            steps += len(call)
            elapsed = time.perf_counter() - start
            if elapsed >= self._seconds:
                break
        return steps * self._job.plan.train.batch_size / elapsed

    def _train(self, inputs: Iterator[tuple[range, Inputs]]) -> tuple[float, float]:
        """Trains as `train.loop` does; returns images per second and the share of waiting."""
        in_flight: deque[Sums] = deque(maxlen=sharding.MAX_IN_FLIGHT + 1)
        steps = 0
        with contextlib.closing(Waiting()) as waiting:
            calls = waiting.inputs(inputs)
            call, arrays = next(calls)
            jax.block_until_ready(self._step(arrays, len(call)))
            start = time.perf_counter()
            for call, arrays in calls:
                in_flight.append(self._step(arrays, len(call)))
                waiting.started(in_flight[-1])
                sharding.wait_for_earlier(in_flight)
                steps += len(call)
                if time.perf_counter() - start >= self._seconds:
                    break
            waited = waiting.seconds()
            jax.block_until_ready(in_flight[-1])
            elapsed = time.perf_counter() - start
        return steps * self._job.plan.train.batch_size / elapsed, waited / elapsed


def _host_arrays(batches: TrainBatches, steps: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a call, with random pixels.

    Args:
      batches: the training batches.
      steps: the number of steps in the call.
    """
    made = {name: one for name, one in batches[0].items() if name != "problems"}
    generator = np.random.default_rng(0)
    made["image"] = generator.integers(256, size=made["image"].shape, dtype=np.uint8)
    return {name: np.repeat(one[np.newaxis], steps, axis=0) for name, one in made.items()}


def _calls(settings: Plan, steps_per_epoch: int) -> Iterator[range]:
    """Yields the ranges of steps of the calls of an endless run."""
    start = 0
    while True:
        left = steps_per_epoch - start % steps_per_epoch
        stop = start + min(settings.train.steps_per_call, left)
        yield range(start, stop)
        start = stop


def _versions() -> list[str]:
    return [f"{name} {metadata.version(name)}" for name in ("jax", "grain", "pillow")]


def _stage_lines(stages: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Yields the lines of the table of stages."""
    yield report.line(["stage alone, in one process", "images/s", "ms per image"])
    yield report.line(["---"] * 3)
    for name, rates in stages.items():
        rate = statistics.median(rates)
        yield report.line([name, f"{rate:.0f}", f"{1e3 / rate:.3f}"])


def _to_json(result: Result, rounds: int, seconds: float) -> dict[str, Any]:
    return {
        "machine": report.machine(),
        "versions": _versions(),
        "config": plan.to_dict(result.settings),
        "rounds": rounds,
        "seconds": seconds,
        "wholes": [
            {
                **dataclasses.asdict(whole),
                "memory": None if whole.memory is None else whole.memory._asdict(),
            }
            for whole in result.wholes
        ],
        "stages": dict(result.stages),
    }
