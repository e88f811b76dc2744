"""Handling of SIGTERM and Ctrl-C: the training loop stops after its current call, and saves.

A SIGTERM to one of several hosts stops all of them at the same step.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interruption:
    """Context that turns a first SIGTERM or SIGINT into a request to stop.

    A second signal has its usual effect. Outside the main thread, where Python allows no signal
    handlers, there is no such request.

    Attributes:
      signal: the number of the received signal; 0 if there was none.
    """

    def __init__(self) -> None:
        """Initialises the attributes; handlers are installed when the context is entered."""
        self.signal = 0
        self._sync_points = 0
        self._previous: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        """Installs the signal handlers, unless there are several processes.

        JAX's preemption service handles the SIGTERM of several processes.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() > 1 or not in_main_thread:
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restores the previous signal handlers."""
        self._restore()

    def requested(self) -> bool:
        """Returns True if the run should stop now; the n-th call returns the same on all hosts."""
        self._sync_points += 1
        if jax.process_count() > 1:
            # JAX's preemption service sends a SIGTERM of any host to all hosts. It stops them at
            # the sync point after the largest one that a host has passed. The numbers must be
            # consecutive: step numbers would not do, because a call takes several steps.
            return multihost_utils.reached_preemption_sync_point(self._sync_points)
        return self.signal != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
