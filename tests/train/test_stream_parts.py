"""The examples of a streamed run whose parts have other numbers of processes and workers."""

import contextlib
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import data, plan
from cnn_jax.runtime import sharding
from tests import streams
from tests.streams import ROOT, environment

DEVICES = 4
# Numbers of processes and of workers, for the parts of one run. A process takes seconds to start.
FEW_PARTS = [(1, 0), (2, 1), (1, 2)]
PARTS = [(1, 0), (1, 2), (2, 0), (1, 1), (1, 0), (2, 1), (1, 2), (4, 0), (1, 1), (1, 0)]
# In one process with test_streams.py, whose runs also start processes.
pytestmark = [pytest.mark.xdist_group("streams"), pytest.mark.usefixtures("shared_programs")]


class Part:
    """The processes of one part of the run of `streams.write_ids`."""

    def __init__(self, directory: Path, processes: int, start: int, workers: int) -> None:
        self._place, self._start = directory, start
        arguments = (str(directory), str(processes), str(start), str(workers))
        self._tasks = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.streams", *arguments],
                cwd=ROOT,
                env=environment(DEVICES // processes, variables),
                stderr=subprocess.PIPE,
                text=True,
            )
            for variables in streams.slurm(processes)
        ]

    def lines(self) -> list[list[tuple[int, dict[int, int]]]]:
        """Returns for each process its steps with the labels by row."""
        found = []
        for index in range(len(self._tasks)):
            place = self._place / f"ids-{self._start}-{index}"
            text = place.read_text() if place.exists() else ""
            complete = [json.loads(line) for line in text.splitlines(keepends=True) if "\n" in line]
            found.append(
                [
                    (step, {int(row): label for row, label in rows.items()})
                    for step, rows in complete
                ]
            )
        return found

    def kill_after(self, steps: int, delay: float) -> None:
        """Kills all processes, some seconds after each has taken some steps."""

        def has_progress() -> bool:
            for task in self._tasks:
                assert task.poll() is None, task.communicate()[1]
            return all(len(lines) >= steps for lines in self.lines())

        try:
            streams.wait_until(has_progress, 120, "all processes have begun")
            time.sleep(delay)
            workers = [child for task in self._tasks for child in streams.children(task.pid)]
        finally:
            for task in self._tasks:
                task.kill()
            for task in self._tasks:
                task.communicate()
        streams.wait_until(lambda: not any(map(streams.is_running, workers)), 20, "without workers")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(FEW_PARTS, marks=pytest.mark.slow),
        pytest.param(PARTS, marks=pytest.mark.full),
    ],
    ids=["few", "ten"],
)
def test_killed_and_continued_by_other_processes_and_workers(
    tmp_path: Path, parts: list[tuple[int, int]]
) -> None:
    """The ids at each step are those of one process without workers, and cover the split."""
    examples, batch_size = 32, 8
    streams.write_folder(tmp_path / "images" / "train", list(range(examples)))
    rng = random.Random(0)
    start, shown = 0, []
    for processes, workers in parts:
        part = Part(tmp_path, processes, start, workers)
        part.kill_after(steps=3, delay=rng.uniform(0, 0.3))
        lines = part.lines()
        common = min(map(len, lines))
        assert common >= 3
        for of_one in lines:
            assert [step for step, _ in of_one] == list(range(start, start + len(of_one)))
        for of_all in zip(*(of_one[:common] for of_one in lines), strict=True):
            pairs = sorted(itertools.chain.from_iterable(found.items() for _, found in of_all))
            assert [row for row, _ in pairs] == list(range(batch_size))
            shown.append([label for _, label in pairs])
        start += common
    assert shown == list(itertools.islice(uninterrupted_ids(tmp_path), start))
    epoch = examples // batch_size
    for first in range(0, start - epoch, epoch):
        assert sorted(itertools.chain(*shown[first : first + epoch])) == list(range(examples))


def uninterrupted_ids(directory: Path) -> Iterator[list[int]]:
    options = plan.read(streams.ids_config(directory, workers=0))
    feed = data.bind(data.open_source(options.data), options, sharding.make_layout())
    calls = (range(step, step + 1) for step in itertools.count())
    with contextlib.closing(feed):
        for _, inputs in feed.train_inputs(calls):
            yield np.asarray(inputs["label"])[0].tolist()
