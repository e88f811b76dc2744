"""Progress with and without a terminal."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnn_jax.runtime import console

ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Terminal:
    """A pseudo-terminal with the lines that a user would see on it."""

    def __init__(self, columns: int) -> None:
        self.reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(writer, "w", encoding="utf-8")
        os.set_blocking(self.reader, False)
        self._output = b""

    def lines(self) -> list[str]:
        try:
            while data := os.read(self.reader, 65536):
                self._output += data
        except BlockingIOError:
            pass
        shown = [""]
        for piece in re.findall(r"\r\n|\r\x1b\[K|[^\r]+", self._output.decode()):
            if piece == "\r\n":
                shown.append("")
            elif piece == "\r\x1b[K":
                shown[-1] = ""
            else:
                assert "\x1b" not in piece
                shown[-1] += piece
        return shown

    def close(self) -> None:
        self.stream.close()
        os.close(self.reader)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(columns=100)
    yield terminal
    terminal.close()


def train(clock: Clock, progress: console.Progress) -> None:
    """Compiles for 27 s, takes 90 steps of 1 s, and validates for 40 s after the 45th."""
    with progress.phase("compiling the training step"):
        clock.wait(27)
    for step in range(1, 91):
        clock.wait(1)
        progress.advance(1)
        progress.show({"loss": 1 / step, "top1": 0.5, "images_per_second": 5312.4})
        if step == 45:
            for batch in range(5):
                progress.beside("validation", batch, 4)
                clock.wait(10 if batch < 4 else 0)
            progress.message("a message")


def test_without_a_terminal_a_line_every_so_often() -> None:
    clock, stream = Clock(), io.StringIO()
    with console.Progress(90, every_seconds=30, stream=stream, clock=clock) as progress:
        train(clock, progress)
    assert stream.getvalue().splitlines() == [
        "compiling the training step …",
        "compiling the training step: 27.0 s",
        "step 3/90, loss 0.5000, top1 0.5000, 5312 images/s, time left 01:27",
        "step 33/90, loss 0.0312, top1 0.5000, 5312 images/s, time left 00:57",
        "step 45/90, validation 2/4, loss 0.0222, top1 0.5000, 5312 images/s, time left 00:45",
        "a message",
        "step 55/90, loss 0.0185, top1 0.5000, 5312 images/s, time left 00:35",
        "step 85/90, loss 0.0119, top1 0.5000, 5312 images/s, time left 00:05",
        "step 90/90, loss 0.0111, top1 0.5000, 5312 images/s, time 02:37",
    ]


def test_without_a_terminal_no_control_characters() -> None:
    clock, stream = Clock(), io.StringIO()
    with console.Progress(90, every_seconds=1, stream=stream, clock=clock) as progress:
        train(clock, progress)
    assert re.search(r"[^\n -~…]", stream.getvalue()) is None


def test_without_a_terminal_the_last_line_follows_the_last_pass() -> None:
    clock, stream = Clock(), io.StringIO()
    with console.Progress(2, every_seconds=10, stream=stream, clock=clock) as progress:
        clock.wait(5)
        progress.advance(2)
        for batch in range(3):
            progress.beside("test", batch, 2)
            clock.wait(5)
        progress.show({"top1": 0.0})
    assert stream.getvalue() == "step 2/2, test 1/2\nstep 2/2, top1 0.0000, time 00:20\n"


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setenv("TERM", "dumb")
    clock = Clock()
    with console.Progress(90, every_seconds=1000, stream=terminal.stream, clock=clock) as progress:
        train(clock, progress)
    assert terminal.lines() == [
        "compiling the training step …",
        "compiling the training step: 27.0 s",
        "a message",
        "step 90/90, loss 0.0111, top1 0.5000, 5312 images/s, time 02:37",
        "",
    ]


def test_values_are_kept_until_replaced_and_in_readable_form() -> None:
    clock, stream = Clock(), io.StringIO()
    with console.Progress(10, stream=stream, clock=clock) as progress:
        progress.show({"loss": 2.0, "images_per_second": 12.345})
        progress.show({"loss": 1e-5, "top5": 0.98765})
        progress.advance(4)
    assert stream.getvalue() == "step 4/10, loss 1e-05, 12.3 images/s, top5 0.9877\n"


def test_a_continued_run_counts_from_its_first_step() -> None:
    clock, stream = Clock(), io.StringIO()
    with console.Progress(100, initial=80, every_seconds=5, stream=stream, clock=clock) as progress:
        clock.wait(2)
        progress.advance(4)
        clock.wait(4)
        progress.advance(8)
    assert stream.getvalue() == "step 92/100, time left 00:04\n"


def test_a_run_that_was_complete_prints_no_step() -> None:
    stream = io.StringIO()
    with console.Progress(100, initial=100, stream=stream):
        pass
    assert stream.getvalue() == ""


def test_time_left_follows_the_recent_rate() -> None:
    clock, stream = Clock(), io.StringIO()
    with console.Progress(2000, every_seconds=100, stream=stream, clock=clock) as progress:
        for _ in range(1000):  # 10 steps a second
            clock.wait(0.1)
            progress.advance(1)
        for _ in range(100):  # 1 step a second
            clock.wait(1)
            progress.advance(1)
    assert "step 1100/2000, time left 15:00" in stream.getvalue()


def test_steps_reported_within_a_phase_do_not_enter_the_time_left() -> None:
    clock, stream = Clock(), io.StringIO()
    with console.Progress(100, every_seconds=30, stream=stream, clock=clock) as progress:
        clock.wait(5)  # reading the data
        with progress.phase("compiling"):
            clock.wait(20)
            progress.advance(50)
        clock.wait(5)
        progress.advance(10)
    assert "step 60/100, time left 00:20" in stream.getvalue()


def test_phases_may_be_nested() -> None:
    clock, stream = Clock(), io.StringIO()
    with console.Progress(100, stream=stream, clock=clock) as progress:
        with progress.phase("outer"):
            clock.wait(1)
            with progress.phase("inner"):
                clock.wait(2)
            clock.wait(1)
        clock.wait(29)
        progress.advance(50)
    assert stream.getvalue().splitlines() == [
        *("outer …", "inner …", "inner: 2.0 s", "outer: 4.0 s"),
        "step 50/100, time left 00:29",
    ]


def test_error_within_a_phase_ends_it(terminal: Terminal) -> None:
    clock = Clock()
    with console.Progress(100, stream=terminal.stream, clock=clock) as progress:
        with pytest.raises(ZeroDivisionError), progress.phase("compiling"):
            raise ZeroDivisionError
        clock.wait(10)
        progress.advance(50)
        (line,) = terminal.lines()
        assert line.endswith("| 50/100 [00:10<00:10]")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_disabled_prints_nothing(terminal: Terminal, is_terminal: bool) -> None:
    clock, text = Clock(), io.StringIO()
    stream = terminal.stream if is_terminal else text
    with console.Progress(
        90, every_seconds=1, enabled=False, stream=stream, clock=clock
    ) as progress:
        train(clock, progress)
    assert text.getvalue() == ""
    assert terminal.lines() == [""]


def test_standard_error_is_looked_up_when_progress_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with console.Progress(3) as progress:
        progress.advance(3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("step 3/3, time ")


def test_terminal_shows_a_single_line_below_the_messages(terminal: Terminal) -> None:
    clock = Clock()
    with console.Progress(90, stream=terminal.stream, clock=clock) as progress:
        (bar,) = terminal.lines()
        assert re.fullmatch(r"  0%\| +\| 0/90 \[00:00<\?\]", bar)
        train(clock, progress)
    *messages, bar, end = terminal.lines()
    assert messages == ["compiling the training step: 27.0 s", "a message"]
    values = r"loss 0\.0111, top1 0\.5000, 5312 images/s"
    assert re.fullmatch(rf"100%\|█+\| 90/90 \[02:37<00:00, {values}\]", bar)
    assert end == ""


def test_terminal_shows_values_and_time_left_without_compilation(terminal: Terminal) -> None:
    clock = Clock()
    with console.Progress(90, stream=terminal.stream, clock=clock) as progress:
        with progress.phase("compiling"):
            clock.wait(27)
        progress.show({"loss": 0.1234, "top1": 0.9512, "images_per_second": 5312.0})
        clock.wait(10)
        progress.advance(30)
        *_, bar = terminal.lines()
        assert re.search(
            r"\| 30/90 \[00:37<00:20, loss 0\.1234, top1 0\.9512, 5312 images/s\]$", bar
        )
        assert len(bar) <= 99


def test_terminal_shows_validation_on_the_same_line(terminal: Terminal) -> None:
    clock = Clock()
    with console.Progress(90, stream=terminal.stream, clock=clock) as progress:
        progress.show({"loss": 0.1234})
        clock.wait(30)
        progress.advance(30)
        progress.beside("validation", 0, 4)
        assert terminal.lines()[0].startswith("validation 0/4:  33%|")
        clock.wait(100)
        progress.beside("validation", 3, 4)
        (line,) = terminal.lines()
        assert line.startswith("validation 3/4:  33%|")
        assert line.endswith("| 30/90 [02:10<01:00, loss 0.1234]")
        progress.beside("validation", 4, 4)
        assert terminal.lines()[0].startswith(" 33%|")


def test_terminal_shows_the_seconds_of_a_phase_while_it_lasts(terminal: Terminal) -> None:
    with console.Progress(90, stream=terminal.stream) as progress:
        with progress.phase("compiling the training step"):
            assert terminal.lines() == ["compiling the training step … 0 s"]
            deadline = time.monotonic() + 30
            while terminal.lines() == ["compiling the training step … 0 s"]:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert terminal.lines() == ["compiling the training step … 1 s"]
        message, bar = terminal.lines()
    assert re.fullmatch(r"compiling the training step: \d\.\d s", message)
    assert bar.startswith("  0%|")


def test_narrow_terminal_is_never_overflown(terminal: Terminal) -> None:
    fcntl.ioctl(terminal.stream, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    clock = Clock()
    with console.Progress(90, stream=terminal.stream, clock=clock) as progress:
        with progress.phase("compiling a program with a long name " * 2):
            assert len(terminal.lines()[0]) == 39
        progress.show({"loss": 0.1234, "top1": 0.9512, "images_per_second": 5312.0})
        progress.beside("validation", 1, 4)
        assert len(terminal.lines()[-1]) == 39


def test_training_goes_on_when_the_terminal_is_closed() -> None:
    script = """
import sys
from cnn_jax.runtime import console
def command():
    with console.Progress(1000) as progress:
        sys.stdin.read()  # until the terminal is gone
        for _ in range(1000):
            progress.advance(1)
    print("trained")
    return 0
console.exit_with(command)
"""
    reader, writer = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
    )
    os.close(writer)
    assert os.read(reader, 10)  # the bar
    os.close(reader)
    output, _ = process.communicate(timeout=60)
    assert output == "trained\n"


def test_progress_ends_and_the_run_goes_on_where_the_disk_of_its_file_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        progress = console.Progress(2, every_seconds=0.0, stream=full)
        progress.message("training")
        progress.advance(1)
        progress.close()
        with pytest.raises(OSError, match="No space left"):
            full.close()
