"""The time that training waits for data."""

import time
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import TypeVar

import jax

from cnn_jax.contracts import Sums

Item = TypeVar("Item")


class Waiting:
    """Seconds in which the devices had nothing to do because the next batch was not there.

    Steps run behind the host. So a wait of the host counts only from the end of the step that was
    started last. A thread observes that end, without delaying the host.
    """

    def __init__(self) -> None:
        """Starts without waits."""
        self._observer = futures.ThreadPoolExecutor(1)
        self._idle_since: futures.Future[float] | None = None
        self._waits: list[tuple[float, float, futures.Future[float]]] = []

    def close(self) -> None:
        """Ends the thread."""
        self._observer.shutdown()

    def inputs(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields `items` and measures the wait for each but the first, which starts workers."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            if self._idle_since is not None:
                self._waits.append((start, time.perf_counter(), self._idle_since))
            yield item

    def started(self, sums: Sums) -> None:
        """Observes the end of the steps that return `sums`."""
        self._idle_since = self._observer.submit(_end_of, sums)

    def clear(self) -> None:
        """Leaves out the next wait; call it after a validation or a checkpoint."""
        self._idle_since = None

    def seconds(self) -> float:
        """Returns the seconds of waiting since the last call; waits for the devices."""
        waits, self._waits = self._waits, []
        return sum(max(0.0, stop - max(start, idle.result())) for start, stop, idle in waits)


def _end_of(sums: Sums) -> float:
    jax.block_until_ready(sums)
    return time.perf_counter()
