"""Runs the probes of JAX in a process of their own: XLA can end it, and a device can hang.

The process prints one JSON object per line: the probe that starts, a finding, or the end.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import cnn_jax
from cnn_jax.doctor import examination
from cnn_jax.doctor.findings import Finding, Level, ok, problem

_SECONDS = 60.0  # for one probe; JAX starts in 1 s on a CPU, and in 20 s on many GPUs or a TPU
_MOST = 1000  # characters of messages in a finding
_HUNG = "Timeout ("  # the first words of faulthandler's message
_FATAL = re.compile(r"^F\d{4} [^\]]*\] *(.*)$", re.MULTILINE)  # absl's format, from C++
_STEPS = {
    "flag": "correct XLA_FLAGS, or unset it",
    "hang": "restart the machine if a GPU has failed (sudo dmesg); with several GPUs try "
    "NCCL_P2P_DISABLE=1, or choose one by CUDA_VISIBLE_DEVICES",
    "end": "repeat with JAX_PLATFORMS=cpu to exclude the device; then reinstall: python -m pip "
    "install --force-reinstall jax jaxlib",
}


def findings(seconds: float = _SECONDS) -> Iterator[Finding]:
    """Yields the findings of the probes with JAX, and a problem if their process ends early.

    Args:
      seconds: longest duration of one probe.
    """
    place, is_whole = ("devices", "start"), False
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as messages:
        with _started(seconds, messages) as process:
            for line in process.stdout or ():
                match _parsed(line):
                    case {"part": str(part), "probe": str(probe)}:
                        place = (part, probe)
                    case {"finding": dict(fields)}:
                        yield Finding(**fields | {"level": Level(fields["level"])})
                    case {"end": True}:
                        is_whole = True
        messages.seek(0)
        text = messages.read().strip()
    if not is_whole:
        found = _early_end(place[1], process.returncode, text, seconds)
        yield dataclasses.replace(found, part=place[0])
    elif text:
        yield dataclasses.replace(ok("messages of JAX", text[-_MOST:]), part=place[0])


def write(seconds: float) -> None:
    """Prints the findings; this is the program of the process.

    Args:
      seconds: longest duration of one probe. Then the process prints its stack and ends.
    """
    faulthandler.enable()

    def before(part: str, probe: str) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True)
        _print({"part": part, "probe": probe})

    for finding in examination.with_jax(before):
        _print({"finding": dataclasses.asdict(finding)})
    _print({"end": True})


@contextlib.contextmanager
def _started(seconds: float, messages: IO[str]) -> Iterator["subprocess.Popen[str]"]:
    program = f"from cnn_jax.doctor import isolated; isolated.write({seconds!r})"
    paths = [str(Path(cnn_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=messages,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONIOENCODING": "utf-8",
        },
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _print(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _parsed(line: str) -> Any:
    """Returns the message in a line; None for a line that a library printed."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _early_end(probe: str, status: int, messages: str, seconds: float) -> Finding:
    """Returns the problem of a process that ended before its last probe."""
    name = "JAX" if probe == "start" else probe.replace("_", " ")
    if _HUNG in messages:
        return problem(name, f"no result after {seconds:g} s", _STEPS["hang"])
    fatal = _FATAL.search(messages)
    reason = fatal[1] if fatal else messages[-_MOST:] or "no message"
    step = _STEPS["flag" if "XLA_FLAGS" in reason else "end"]
    text = f"the process ended with status {status}: {' '.join(reason.split())}"
    return problem(name, text, step)
