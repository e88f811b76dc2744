"""Command-line output: exit statuses, the start block of a run, and the progress of training."""

import errno
import io
import os
import signal
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self, TextIO

from cnn_jax import errors
from cnn_jax.runtime import exits, outputs

_CLEAR = "\r\x1b[K"  # to the start of the line, then erase it
_DRAW_SECONDS = 0.1  # between two drawings of the bar
_TICK_SECONDS = 0.5  # between two drawings of a phase
_RECENT_SECONDS = 60.0  # of training, for the recent rate of steps
_LEAST_SECONDS = 1.0  # of training, before an estimate is shown


def exit_with(command: Callable[[], int]) -> None:
    """Runs a command and exits with the status that it returns.

    A UserError becomes one message and status 1. Ctrl-C is status 130 and SIGTERM 143, without a
    traceback. Output into a closed pipe, as in `| head`, or a closed terminal is status 141,
    without a message. Output onto a full disk is status 1, with one message. Letters that the
    output cannot encode are printed as escape sequences.
    """
    # Python has None in place of a stream that the shell closed.
    streams: list[TextIO] = [each for each in (sys.stdout, sys.stderr) if each is not None]
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(command)
        # Python would flush after this function and could only complain about a closed pipe.
        for stream in streams:
            stream.flush()
    except OSError as error:
        lost = [stream for stream in streams if outputs.is_lost(stream)]
        if error.errno in outputs.FULL:
            status = f"error: a file or the output cannot be written: {error.strerror}"
        elif error.errno in outputs.GONE and lost:
            status = outputs.BROKEN_PIPE
        else:
            raise  # an error of the command itself
        for stream in lost:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def block(rows: Mapping[str, str]) -> str:
    """Returns one line per row, with the values aligned and control characters escaped.

    >>> print(block({"network": "lenet, 61,706 parameters", "steps": "3000"}))
    network  lenet, 61,706 parameters
    steps    3000
    """
    lines = [(errors.printable(name), errors.printable(value)) for name, value in rows.items()]
    width = max((_width(name) for name, _ in lines), default=0)
    return "\n".join(f"{name}{' ' * (width - _width(name))}  {value}" for name, value in lines)


def show_count(unit: str, done: int, total: int) -> None:
    """Prints a count in place of the last one, such as '3 of 20 batches'.

    Args:
      unit: the name of what is counted.
      done: the number of finished ones.
      total: the number of all.
    """
    end = "\n" if done == total else ""
    print(f"\r{done} of {total} {unit}", end=end, file=sys.stderr, flush=True)


class Progress:
    """Progress of training: a bar in a terminal, and a line every so often elsewhere.

    The time left is estimated from the recent rate of steps. The time of phases, such as
    compilation, and of validation does not count. The methods may be called from one thread only.
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        every_seconds: float = 30.0,
        unit: str = "step",
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts at step `initial` and, in a terminal, draws the bar.

        Args:
          total: the step at which training ends.
          initial: the number of steps taken before.
          every_seconds: seconds between lines where `stream` is no terminal.
          unit: the name of a step in these lines, such as 'image'.
          enabled: False to print nothing.
          stream: the output; standard error if not given.
          clock: returns the time in seconds.
        """
        self._total, self._done, self._printed = total, initial, initial
        self._every, self._clock, self._unit = every_seconds, clock, unit
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled = enabled and self._stream is not None  # The shell may close it.
        self._has_bar = enabled and _is_terminal(self._stream)
        self._start = clock()
        self._next_line = self._start + every_seconds
        self._next_drawing = self._start
        self._rate = _RecentRate(initial, clock)
        self._values: Mapping[str, float] = {}
        self._phase = ""
        self._phase_start = self._start
        self._beside = ""
        self._lock = threading.RLock()  # the bar is also drawn by the thread of a phase
        self._draw()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the progress."""
        self.close()

    def message(self, text: str) -> None:
        """Prints a line, with control characters escaped; in a terminal, above the bar."""
        text = errors.printable(text, keep_lines=True)
        with self._lock:
            self._write(f"{_CLEAR}{text}\n" if self._has_bar else f"{text}\n")
            self._draw()

    @contextmanager
    def phase(self, text: str) -> Iterator[None]:
        """Shows `text` and the seconds since the start of this context in place of the bar.

        Steps that are reported within the context do not enter the rate of steps.

        Args:
          text: the activity, such as 'compiling the training step'.
        """
        outer = self._phase, self._phase_start
        start = self._clock()
        with self._lock:
            self._phase, self._phase_start = text, start
        self._rate.pause()
        if not self._has_bar:
            self.message(f"{text} …")
        try:
            with self._ticking():
                yield
        finally:
            self._rate.resume()
            with self._lock:
                self._phase, self._phase_start = outer
        self.message(f"{text}: {self._clock() - start:.1f} s")

    def advance(self, steps: int) -> None:
        """Adds steps that were taken."""
        self._done += steps
        self._rate.add(steps)
        self._update()

    def show(self, values: Mapping[str, float]) -> None:
        """Replaces the displayed values of the given names, such as loss or images_per_second."""
        self._values = {**self._values, **values}

    def beside(self, label: str, done: int, total: int) -> None:
        """Updates the display of a pass over another split, such as a validation.

        The time between the call with `done` 0 and the call with `done` equal to `total` is left
        out of the rate of training steps and of the time left.

        Args:
          label: the split, such as 'validation'.
          done: the number of batches done; 0 in the first call.
          total: the number of batches in the split.
        """
        was_active, is_active = bool(self._beside), done < total
        if is_active and not was_active:
            self._rate.pause()
        elif was_active and not is_active:
            self._rate.resume()
        self._beside = f"{label} {done}/{total}" if is_active else ""
        if was_active != is_active:
            self._draw()
        self._update()

    def close(self) -> None:
        """Shows the last state and ends the bar's line."""
        with self._lock:
            if self._has_bar:
                self._draw()
                self._write("\n")
                self._has_bar = False
            elif self._printed != self._done:
                self._write_line()
            self._printed = self._done

    def _update(self) -> None:
        now = self._clock()
        if self._has_bar and now >= self._next_drawing:
            self._next_drawing = now + _DRAW_SECONDS
            self._draw()
        elif not self._has_bar and now >= self._next_line:
            self._next_line = now + self._every
            self._write_line()

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        """Draws the bar's line at intervals, from a thread of its own."""
        stop = threading.Event()

        def tick() -> None:
            with suppress(OSError):  # The main thread meets the same error when it writes.
                while not stop.wait(_TICK_SECONDS):
                    self._draw()

        thread = threading.Thread(target=tick, daemon=True)
        if self._has_bar:
            self._draw()
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if thread.ident is not None:
                thread.join()

    def _draw(self) -> None:
        with self._lock:
            if self._has_bar:
                self._write(f"{_CLEAR}{self._bar(_columns(self._stream) - 1)}")

    def _bar(self, columns: int) -> str:
        from tqdm import tqdm  # `cnn_jax.doctor` runs on a machine without the packages.

        now = self._clock()
        if self._phase:
            return f"{self._phase} … {now - self._phase_start:.0f} s"[:columns]
        text: str = tqdm.format_meter(
            self._done,
            self._total,
            now - self._start,
            ncols=columns,
            prefix=self._beside,
            ascii="utf" not in (self._stream.encoding or "").lower(),
            rate=self._rate.steps_per_second(),
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            postfix=", ".join(_describe(self._values)),
        )
        return text

    def _write_line(self) -> None:
        from tqdm import tqdm

        parts = [f"{self._unit} {self._done}/{self._total}", self._beside, *_describe(self._values)]
        rate = self._rate.steps_per_second()
        if self._done < self._total and rate:
            left = tqdm.format_interval(round((self._total - self._done) / rate))
            parts.append(f"time left {left}")
        elif self._done >= self._total and not self._beside:
            parts.append(f"time {tqdm.format_interval(self._clock() - self._start)}")
        self._write(", ".join(filter(None, parts)) + "\n")
        self._printed = -1 if self._beside else self._done

    def _write(self, text: str) -> None:
        if not self._enabled:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            if error.errno not in (errno.EIO, *outputs.FULL):
                raise
            self._enabled = False  # The run goes on.


class _RecentRate:
    """Rate of steps over the last minute of training, without pauses."""

    def __init__(self, done: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._done = done
        self._paused_seconds = 0.0
        self._pauses = 0  # the number of pauses that are open, one inside another
        self._pause_start = 0.0
        self._samples = deque([(self._now(), done)])
        self._latest = self._samples[0]

    def pause(self) -> None:
        """Stops the clock; pauses may be nested."""
        if self._pauses == 0:
            self._pause_start = self._clock()
        self._pauses += 1

    def resume(self) -> None:
        """Starts the clock at the end of the outermost pause."""
        self._pauses -= 1
        if self._pauses == 0:
            self._paused_seconds += self._clock() - self._pause_start
            if len(self._samples) == 1 and self._latest == self._samples[0]:
                self._restart()  # Time before the first step is no training.

    def add(self, steps: int) -> None:
        """Adds steps; those taken in a pause do not count."""
        self._done += steps
        if self._pauses:
            self._restart()
            return
        self._latest = now, _ = self._now(), self._done
        # A hundred samples are enough, however short the steps.
        if now - self._samples[-1][0] >= _RECENT_SECONDS / 100:
            self._samples.append(self._latest)
        while len(self._samples) > 2 and self._samples[1][0] <= now - _RECENT_SECONDS:
            self._samples.popleft()

    def steps_per_second(self) -> float:
        """Returns the rate, or 0 while there is too little to estimate it from."""
        seconds = self._latest[0] - self._samples[0][0]
        steps = self._latest[1] - self._samples[0][1]
        return steps / seconds if seconds >= _LEAST_SECONDS else 0.0

    def _now(self) -> float:
        """Returns the time in seconds without pauses."""
        now = self._pause_start if self._pauses else self._clock()
        return now - self._paused_seconds

    def _restart(self) -> None:
        self._latest = self._now(), self._done
        self._samples = deque([self._latest])


def _run(command: Callable[[], int]) -> int | str | None:
    """Runs a command and returns its exit status, as an argument of `sys.exit`.

    A UserError and Ctrl-C are turned into a message and a status. SystemExit, which argparse raises
    for --help, is turned into its status.
    """
    try:
        with exits.at_once():
            return command()
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except SystemExit as error:  # --help of argparse, among others
        return error.code


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _width(text: str) -> int:
    """Returns the number of columns of a text in a terminal; Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _columns(stream: TextIO) -> int:
    """Returns the width of the terminal, or 80 if it is unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def _describe(values: Mapping[str, float]) -> Iterator[str]:
    """Yields 'loss 0.1234' or, for rates such as images_per_second, '5312 images/s'."""
    for key, value in values.items():
        name = errors.printable(key)
        if name.endswith("_per_second"):
            unit = name.removesuffix("_per_second").replace("_", " ")
            yield f"{value:.0f} {unit}/s" if value >= 100 else f"{value:.3g} {unit}/s"
        else:
            is_usual = value == 0 or 1e-3 <= abs(value) < 1e4
            yield f"{name} {value:.4f}" if is_usual else f"{name} {value:.3g}"
