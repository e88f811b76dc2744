"""Exit statuses, messages and tables of commands, and output that cannot be written."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.runtime import console

ROOT = Path(__file__).parents[2]


def test_block_aligns_the_values() -> None:
    rows = {"network": "lenet, 61,706 parameters", "work directory": "runs/lenet"}
    assert console.block(rows).splitlines() == [
        "network         lenet, 61,706 parameters",
        "work directory  runs/lenet",
    ]
    assert console.block({}) == ""
    wide = {"class お": "0.9", "loss": "0.5"}  # The letter is two columns wide.
    assert console.block(wide).splitlines() == ["class お  0.9", "loss      0.5"]


def fail(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (errors.UserError("no such network"), 1, "error: no such network\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(0), 0, ""),
        (SystemExit(2), 2, ""),
    ],
)
def test_failed_command_prints_one_message_and_exits(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, message: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        console.exit_with(lambda: fail(error))
    assert exit_info.value.code == status
    assert capsys.readouterr().err == message


def test_status_of_a_command_is_that_of_the_process() -> None:
    with pytest.raises(SystemExit) as exit_info:
        console.exit_with(lambda: 3)
    assert exit_info.value.code == 3


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        console.exit_with(lambda: fail(ZeroDivisionError()))


def test_messages_are_cut_and_have_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> int:
        raise errors.UserError("bad name \x1b[2J\u202e\ud800\nnext line" + "x" * 10**6)

    with pytest.raises(SystemExit):
        console.exit_with(command)
    message = capsys.readouterr().err
    assert message.startswith("error: bad name \\x1b[2J\\u202e\\ud800\nnext linexx")
    assert " … 996,025 characters left out … " in message
    assert len(message) < 4_100


def test_tables_and_progress_have_no_control_characters() -> None:
    assert console.block({"a\x1b": "b\n\u202e"}) == "a\\x1b  b\\n\\u202e"
    stream = io.StringIO()
    with console.Progress(2, stream=stream) as progress:
        progress.message("a\x1b[2J\nb")
        progress.show({"loss\x1b": 0.5})
        progress.advance(1)
    assert stream.getvalue() == "a\\x1b[2J\nb\nstep 1/2, loss\\x1b 0.5000\n"


def test_a_command_runs_without_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    def command() -> int:
        print("x")
        with console.Progress(1) as progress:
            progress.advance(1)
        return 3

    with pytest.raises(SystemExit) as caught:
        console.exit_with(command)
    assert caught.value.code == 3


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")]
)
def test_closed_pipe_of_the_program_itself_is_an_error(error: OSError) -> None:
    script = f"""
from cnn_jax.runtime import console
def command():
    raise {error!r}
console.exit_with(command)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert type(error).__name__ in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        "print('x' * 100)",  # met at the end, when standard output is flushed
        "print('x' * 1_000_000)",
        "print('x', file=sys.stderr)",
        "raise errors.UserError('x')",
        "print('x'); raise SystemExit(0)",
        "[progress.advance(1) for _ in range(1000)]",
    ],
)
def test_closed_pipe_ends_a_command_quietly(command: str) -> None:
    script = f"""
import sys
from cnn_jax import errors
from cnn_jax.runtime import console
progress = console.Progress(1000, every_seconds=1e-9)
def command():
    sys.stdin.read()  # until the reader is gone
    {command}
    return 0
console.exit_with(command)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 141


def test_closed_standard_output_leaves_standard_error_silent() -> None:
    script = """
import sys
from cnn_jax.runtime import console
console.exit_with(lambda: print("x" * 1_000_000) or 0)
"""
    result = subprocess.run(
        f"set -o pipefail; {sys.executable} -c '{script}' | head -c 1",
        cwd=ROOT,
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (141, "x", "")


@pytest.mark.parametrize("flush", [True, False])
def test_output_onto_a_full_disk_is_one_line(flush: bool) -> None:
    code = (
        "from cnn_jax.runtime import console\n"
        f"console.exit_with(lambda: print('result', flush={flush}) or 0)\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    message = "error: a file or the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)
