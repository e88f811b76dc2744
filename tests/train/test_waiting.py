"""Tests of the time that training waits for data, with a clock and steps of the test's own."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cnn_jax.train import waiting
from cnn_jax.train.waiting import Waiting


class Step:
    """The sums of a step that ends when the test says so."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self.at = 0.0

    def end(self, at: float) -> None:
        self.at = at
        self._ended.set()

    def wait(self) -> float:
        assert self._ended.wait(10)
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose time is the only entry."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(waiting, "_end_of", lambda sums: sums.wait())
    return now


def items(clock: list[float], seconds: float) -> Iterator[Any]:
    while True:
        clock[0] += seconds
        yield None


@pytest.mark.parametrize(
    ("step_seconds", "data_seconds", "expected"),
    [(3.0, 2.0, 0.0), (2.0, 2.0, 0.0), (1.0, 5.0, 4.0), (0.0, 5.0, 5.0)],
)
def test_a_wait_counts_from_the_end_of_the_step_before(
    clock: list[float], step_seconds: float, data_seconds: float, expected: float
) -> None:
    measured = Waiting()
    inputs = measured.inputs(items(clock, data_seconds))
    next(inputs)
    for _ in range(3):
        step: Any = Step()
        measured.started(step)
        step.end(clock[0] + step_seconds)
        next(inputs)
    assert measured.seconds() == pytest.approx(3 * expected)
    assert measured.seconds() == 0
    measured.close()


def test_the_first_wait_and_those_after_a_pause_do_not_count(clock: list[float]) -> None:
    measured = Waiting()
    inputs = measured.inputs(items(clock, 5.0))
    next(inputs)
    step: Any = Step()
    measured.started(step)
    step.end(clock[0])
    measured.clear()
    next(inputs)
    assert measured.seconds() == 0
    measured.close()
