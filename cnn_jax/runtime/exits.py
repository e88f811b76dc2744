"""The end of a command by SIGTERM or Ctrl-C, with status 143 or 130.

Python runs its signal handlers between two instructions of the main thread. They wait while XLA
compiles, and a KeyboardInterrupt in a callback or a destructor is printed and dropped. So a thread
of the command receives the signals.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

# SIGBREAK is Windows' Ctrl-Break, the only request to end that another process can send there.
REQUESTS_TO_END: Final[tuple[int, ...]] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
SIGNALS: Final[tuple[int, ...]] = (signal.SIGINT, *REQUESTS_TO_END)
Handler = Callable[[int, FrameType | None], Any] | int | None
Receive = Callable[[int], bool]
"""Called with the number of a signal, in the thread; False ends the process at once."""

_STANDARD_ERROR = 2  # its file descriptor


class _Listener:
    """Thread that receives signals and ends the process.

    Attributes:
      is_running: True within `at_once`.
      receive: called with the number of each signal; True if it handled the signal, so that the
        process goes on. None to end the process at each signal.
    """

    def __init__(self) -> None:
        self.is_running = False
        self.receive: Receive | None = None

    def run(self, reader: int) -> None:
        """Receives the numbers of signals from a pipe until it is closed."""
        while received := os.read(reader, 1):
            number = received[0]
            if number in SIGNALS and not (self.receive is not None and self.receive(number)):
                _end(number)


_listener = _Listener()


@contextmanager
def at_once() -> Iterator[None]:
    """Context manager in which SIGTERM and SIGINT end the process at once; see also `receiving`.

    Signals that the process ignores stay ignored. Outside the main thread, where Python allows no
    signal handlers, nothing changes.
    """
    if _listener.is_running or not in_main_thread():
        yield
        return
    reader, writer = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows has it from Python 3.12 on.
        os.set_blocking(writer, False)
    thread = threading.Thread(target=_listener.run, args=(reader,), name="signals", daemon=True)
    thread.start()
    # Python's own handler, in C, writes the number of each signal that has a handler in Python.
    outer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    previous = handle(_do_nothing)
    _listener.is_running = True
    try:
        yield
    finally:
        _listener.is_running = False
        restore(previous)
        signal.set_wakeup_fd(outer)
        os.close(writer)
        thread.join()
        os.close(reader)


@contextmanager
def receiving(receive: Receive) -> Iterator[bool]:
    """Passes the signals of a command to `receive` within a context.

    Yields:
      False if no command listens to signals, so that `receive` is never called.
    """
    outer, _listener.receive = _listener.receive, receive
    try:
        yield _listener.is_running
    finally:
        _listener.receive = outer


def in_main_thread() -> bool:
    """Returns True in the main thread, the only one that may install signal handlers."""
    return threading.current_thread() is threading.main_thread()


def handle(
    handler: Callable[[int, FrameType | None], Any], numbers: Iterable[int] = SIGNALS
) -> dict[int, Handler]:
    """Installs a handler of the signals that the process does not ignore; returns the old ones.

    A shell without job control lets programs in the background ignore SIGINT. A signal for which
    the system allows no handler keeps its effect.

    Raises:
      ValueError: the caller is not the main thread.
    """
    earlier: dict[int, Handler] = {}
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            try:
                earlier[number] = signal.signal(number, handler)
            except (OSError, ValueError):
                if not in_main_thread():
                    raise
    return earlier


def restore(handlers: dict[int, Handler]) -> None:
    """Installs the handlers that `handle` returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Leaves a signal to the thread."""


def _end(number: int) -> None:
    """Prints a line and ends the process, without waiting for the main thread."""
    # The main thread may hold the lock of sys.stderr.
    line = "interrupted\n" if number == signal.SIGINT else "terminated\n"
    with suppress(OSError):  # The terminal is closed.
        os.write(_STANDARD_ERROR, line.encode())
    os._exit(128 + number)
