"""SIGTERM and Ctrl-C as a request to stop after the running steps, on all hosts at once."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interruption:
    """Within this context a first SIGTERM or SIGINT is noted; a second one acts at once.

    Attributes:
      signal: the number of the signal that came, 0 if none did.
    """

    def __init__(self) -> None:
        """Nothing is changed before the context is entered."""
        self.signal = 0
        self._asked = 0
        self._previous: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        """Catch the signals; of several processes' SIGTERM, JAX's own preemption service does."""
        if jax.process_count() > 1:
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
        """Give the signals back."""
        self._restore()

    def requested(self) -> bool:
        """Whether to stop now; the n-th answer is the same on all hosts."""
        self._asked += 1
        if jax.process_count() > 1:
            # JAX's preemption service carries a SIGTERM that any host received to all of them. It
            # stops them at the number after the largest asked with, so none may be left out: steps,
            # of which a call takes several, would not do.
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self.signal != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
