"""Tests of SIGTERM and Ctrl-C: a command ends at once, or its run stops after the current call."""

import os
import queue
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import pytest
from jax.experimental import multihost_utils

from cnn_jax.runtime import exits
from cnn_jax.runtime.signals import Interruption


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[int]":
    """The exit statuses of this process, which goes on."""
    found: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(os, "_exit", found.put)
    return found


@pytest.fixture
def command() -> Iterator[None]:
    with exits.at_once():
        yield


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command(
    statuses: "queue.Queue[int]", capfd: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    signal.raise_signal(number)
    assert statuses.get(timeout=60) == status
    assert capfd.readouterr().err in ("interrupted\n", "terminated\n")


@pytest.mark.usefixtures("command")
def test_a_signal_in_a_destructor_is_not_dropped(statuses: "queue.Queue[int]") -> None:
    """Python would print 'Exception ignored' there and go on."""

    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    Interrupted()
    assert statuses.get(timeout=60) == 130


def test_handlers_are_restored_and_ignored_signals_stay_ignored() -> None:
    before = [signal.getsignal(number) for number in exits.SIGNALS]
    with exits.at_once():
        assert [signal.getsignal(number) for number in exits.SIGNALS] != before
        with exits.at_once():  # A command that another one calls changes nothing.
            pass
    assert [signal.getsignal(number) for number in exits.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with exits.at_once():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, earlier)


def test_other_threads_leave_the_handlers_alone() -> None:
    before = [signal.getsignal(number) for number in exits.SIGNALS]
    inside: list[Any] = []

    def command() -> None:
        with exits.at_once(), Interruption() as interruption:
            interruption.defer()
            inside.extend(signal.getsignal(number) for number in exits.SIGNALS)

    thread = threading.Thread(target=command)
    thread.start()
    thread.join()
    assert inside == before


def test_a_handler_in_another_thread_is_refused() -> None:
    """Without the error, a program would wait for signals that it never gets."""
    before = [signal.getsignal(number) for number in exits.SIGNALS]
    with ThreadPoolExecutor(1) as pool:
        handled = pool.submit(exits.handle, exits._do_nothing)
        with pytest.raises(ValueError, match="main thread"):
            handled.result()
    assert [signal.getsignal(number) for number in exits.SIGNALS] == before


@pytest.mark.usefixtures("command")
def test_a_command_saves_from_the_first_call_on(statuses: "queue.Queue[int]") -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert statuses.get(timeout=60) == 143
        assert not interruption.requested()
        interruption.defer()
        signal.raise_signal(signal.SIGTERM)
        while not interruption.requested():
            pass
        assert interruption.signal == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        assert statuses.get(timeout=60) == 130
    signal.raise_signal(signal.SIGINT)
    assert statuses.get(timeout=60) == 130
    assert statuses.empty()


def test_a_program_is_interrupted_until_the_first_call() -> None:
    with Interruption() as interruption:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interruption.defer()
        assert interruption.requested()  # Even if a callback had dropped the exception.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_second_signal_to_a_program_has_its_usual_effect() -> None:
    with Interruption() as interruption:
        interruption.defer()
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested()
        assert interruption.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_sigterm_to_another_host_stops_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[int] = []

    def reached(point: int) -> bool:
        points.append(point)
        return len(points) == 3

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    with Interruption() as interruption:
        assert [interruption.requested() for _ in range(3)] == [False, False, True]
    assert points == [points[0], points[0] + 1, points[0] + 2]
    assert interruption.signal == signal.SIGTERM
