"""Tests of worker processes and of the thread that runs ahead: order, errors and their end."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import errors
from cnn_jax.data import pipeline, shared
from cnn_jax.runtime import threads
from tests.streams import Numbers, blocked_signals, children, is_running, wait_until

ROOT = Path(__file__).parents[2]
# A person's script that reads with two workers, prints their ids and waits.
SCRIPT = """
import multiprocessing, sys, time
from cnn_jax.data import pipeline
from tests.streams import Numbers

if __name__ == "__main__":
    batches = pipeline.batches(Numbers(), 0, workers=2)
    print(sum(int(next(batches)["image"][0, 0]) for _ in range(4)), flush=True)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_order_and_an_error_arrives_at_its_place(workers: int) -> None:
    batches = pipeline.batches(Numbers(last=7), 3, workers)
    found = [next(batches) for _ in range(5)]
    for number, batch in enumerate(found, start=3):
        np.testing.assert_array_equal(batch["image"], np.full((4, 4), number))
        assert batch["problems"] == ("text",)
    makers = {batch["process"] for batch in found}
    assert len(makers) == max(workers, 1)
    assert (os.getpid() in makers) == (workers == 0)
    with pytest.raises(errors.UnreadableImageError) as info:
        next(batches)
    assert str(info.value) == "no image 8"
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("workers", "death", "code"), [(1, "exit", 3), (2, "SIGKILL", -9)])
def test_a_worker_that_dies_is_an_error_within_seconds(workers: int, death: str, code: int) -> None:
    batches = pipeline.batches(Numbers(fatal=4, death=death), 2, workers)
    message = rf"^a worker process that reads images has died: .*exit code {code}\."
    began = time.monotonic()
    with pytest.raises(errors.UserError, match=message):
        list(itertools.islice(batches, 3))  # The worker may take the batches before with it.
    assert time.monotonic() - began < 15  # Workers start within some seconds.
    assert multiprocessing.active_children() == []


def test_closing_at_once_or_in_the_middle_ends_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = set()
    real = shared.Reader.open

    def open_and_record(reader: shared.Reader, batch: Any) -> Any:
        if isinstance(batch, shared.Handed):
            blocks.add(batch.block)
        return real(reader, batch)

    monkeypatch.setattr(shared.Reader, "open", open_and_record)
    before = set(children(os.getpid()))
    unused = pipeline.Ahead(pipeline.batches(Numbers(), 0, workers=1))
    unused.close()
    ahead = pipeline.Ahead(pipeline.batches(Numbers(), 0, workers=2))
    assert int(next(ahead)["image"][0, 0]) == 0
    wait_until(lambda: len(multiprocessing.active_children()) == 2, 20, "two workers")
    for worker in multiprocessing.active_children():
        # Ctrl-C in a terminal reaches all processes; the main process ends the workers.
        assert blocked_signals(worker.pid or 0) == {signal.SIGINT, signal.SIGTERM}
    assert not blocked_signals(os.getpid())
    for number in range(1, 9):
        assert int(next(ahead)["image"][0, 0]) == number
    ahead.close()
    assert multiprocessing.active_children() == []
    assert blocks
    assert not any(Path("/dev/shm", name).exists() for name in blocks)
    # Python's resource tracker stays until this process ends.
    assert len(set(children(os.getpid())) - before) <= 1


def test_workers_end_with_a_main_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    # Grain reads an absl flag, and this script parses none (google/grain issue 1355).
    lines = [process.stdout.readline() for _ in range(2)]
    workers = [int(word) for word in lines[1].split()]
    all_children = children(process.pid)
    process.kill()
    _, complaints = process.communicate()
    assert lines[0] == "6\n", complaints
    assert len(workers) == 2
    assert set(workers) < set(all_children)
    wait_until(lambda: not any(map(is_running, all_children)), 10, "ended")


class Items:
    """Generators of numbers that record what happens to them.

    Attributes:
      made: the number of items made so far.
      threads: the threads that ran the generator.
    """

    def __init__(self) -> None:
        self.made = 0
        self.threads: list[int] = []
        self.closed = False

    def make(self, count: int) -> Generator[int, None, None]:
        """Yields the numbers below `count`, then fails."""
        try:
            for number in range(count):
                self.made += 1
                self.threads.append(threading.get_ident())
                yield number
            raise errors.UserError("the end")
        finally:
            self.threads.append(threading.get_ident())
            self.closed = True


def test_items_are_made_ahead_in_one_thread_and_an_error_arrives_at_its_place() -> None:
    items = Items()
    ahead = pipeline.Ahead(items.make(5))
    assert next(ahead) == 0
    wait_until(lambda: items.made == 3, 5, "two items ahead")
    time.sleep(0.05)
    assert items.made == 3
    assert list(itertools.islice(ahead, 4)) == [1, 2, 3, 4]
    with pytest.raises(errors.UserError, match="the end"):
        next(ahead)
    assert list(ahead) == []
    assert len(set(items.threads)) == 1
    assert items.threads[0] != threading.get_ident()
    ahead.close()


def test_items_end_where_the_generator_ends() -> None:
    ahead = pipeline.Ahead(number for number in range(7))
    assert list(ahead) == list(range(7))
    assert list(ahead) == []
    ahead.close()


def test_closing_in_the_middle_closes_the_generator_and_ends_the_thread() -> None:
    before = set(threading.enumerate())
    items = Items()
    ahead = pipeline.Ahead(items.make(100))
    assert next(ahead) == 0
    ahead.close()
    assert items.closed
    assert items.made <= 3
    assert len(set(items.threads)) == 1
    assert set(threading.enumerate()) <= before
    assert list(ahead) == []
    ahead.close()


def test_the_automatic_number_of_workers_is_that_of_the_cores() -> None:
    assert pipeline.num_workers(0) == 0
    assert pipeline.num_workers(3) == 3
    assert pipeline.num_workers(-1) == min(threads.cores(), pipeline.MAX_WORKERS)
    assert 1 <= threads.cores() <= (os.cpu_count() or 1)
