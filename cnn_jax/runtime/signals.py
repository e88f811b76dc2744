"""Handling of SIGTERM and Ctrl-C during training: the loop stops after its current call, and saves.

A SIGTERM to one of several hosts stops all of them at the same step.
"""

import contextlib
import itertools
import signal
from types import FrameType, TracebackType
from typing import Self

import jax

from cnn_jax.runtime import exits
from cnn_jax.runtime.jax_internals import multihost_utils

# Numbers of a process, not of a run: JAX stops all hosts at a number that none of them has passed.
_sync_points = itertools.count(1)


class Interruption:
    """Context in which the first SIGTERM or SIGINT can be a request to stop.

    Signals have their usual effect until `defer` is called, because there is nothing to save yet: a
    command ends at once, and SIGINT raises KeyboardInterrupt in a program that called `train.run`.
    A second signal has its usual effect too. Outside the main thread, where Python allows no signal
    handlers, there is no such request.

    Attributes:
      signal: the number of the received signal; 0 if there was none.
    """

    def __init__(self) -> None:
        """Initialises the attributes; handlers are installed when the context is entered."""
        self.signal = 0
        self._is_deferred = False
        self._needs_handlers = False
        self._contexts = contextlib.ExitStack()
        self._previous: dict[int, exits.Handler] = {}

    def __enter__(self) -> Self:
        """Listens to signals, unless there are several processes.

        JAX's preemption service handles the SIGTERM of several processes.
        """
        if jax.process_count() == 1 and exits.in_main_thread():
            is_command = self._contexts.enter_context(exits.receiving(self._receive))
            self._needs_handlers = not is_command
        if self._needs_handlers:
            self._previous = exits.handle(self._handle, [signal.SIGINT])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restores the previous signal handlers."""
        self._restore()
        self._contexts.close()

    def defer(self) -> None:
        """Makes the next signal a request to stop: from now on there is a state to save."""
        if self._needs_handlers and not self._is_deferred and not self.signal:
            self._previous |= exits.handle(self._handle, exits.REQUESTS_TO_END)
        self._is_deferred = True

    def requested(self) -> bool:
        """Returns True if the run should stop now; the n-th call returns the same on all hosts."""
        number = next(_sync_points)
        # JAX's preemption service sends a SIGTERM of any host to all hosts. It stops them at the
        # sync point after the largest one that a host has passed. The numbers must be consecutive:
        # step numbers would not do, because a call takes several steps.
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(number):
            self.signal = signal.SIGTERM
        return self.signal != 0

    def _receive(self, number: int) -> bool:
        """Notes a first signal; returns False for a second one, and while nothing can be saved."""
        if self.signal or not self._is_deferred:
            return False
        self.signal = number
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Notes a first signal in a program that is no command of cnn_jax."""
        self.signal = number
        self._restore()
        if not self._is_deferred:
            # A KeyboardInterrupt that a callback drops still stops the run after its first call.
            signal.raise_signal(number)

    def _restore(self) -> None:
        exits.restore(self._previous)
        self._previous = {}
