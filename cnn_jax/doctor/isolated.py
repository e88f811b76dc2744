"""Runs the probes of JAX in a process of their own, because XLA can abort it or a device hang.

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
from typing import IO, Any, NamedTuple

from cnn_jax.doctor import examination, storage
from cnn_jax.doctor.findings import Finding, Level, ok, problem
from cnn_jax.runtime import shipped

_SECONDS = 60.0  # for one probe; JAX starts in 1 s on a CPU, and in 20 s on many GPUs or a TPU
_MOST = 1000  # characters of messages in a finding
_HUNG = re.compile(r"^Timeout \(\d", re.MULTILINE)  # the start of faulthandler's message
_COMPILING = "native kernels"  # the part that may run the compiler
_FATAL = re.compile(r"^F\d{4} [^\]]*\] *(.*)$", re.MULTILINE)  # absl's format, from C++
_STEPS = {
    "flag": "correct XLA_FLAGS, or unset it",
    "hang": "restart the machine if a GPU has failed (sudo dmesg); with several GPUs try "
    "NCCL_P2P_DISABLE=1, or choose one by CUDA_VISIBLE_DEVICES",
    "compiler": "set CXX to another compiler, or CNN_JAX_NATIVE=0 to train without the kernels",
    "end": "repeat with JAX_PLATFORMS=cpu to exclude the device; then reinstall: python -m pip "
    "install --force-reinstall jax jaxlib",
}


class _Place(NamedTuple):
    """A probe that runs.

    Attributes:
      part: its part of the examination.
      probe: its name.
      seconds: its longest duration.
    """

    part: str
    probe: str
    seconds: float


def findings(seconds: float = _SECONDS) -> Iterator[Finding]:
    """Yields the findings of the probes with JAX, and a problem if their process ends early.

    Args:
      seconds: longest duration of one probe.
    """
    with contextlib.ExitStack() as stack:
        try:
            messages = stack.enter_context(
                tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
            )
        except OSError as error:  # There is no directory of temporary files.
            found = problem("JAX", f"not examined: {error}", storage.SET_TMPDIR)
            yield dataclasses.replace(found, part="devices")
            return
        yield from _collected(seconds, messages)


def _collected(seconds: float, messages: IO[str]) -> Iterator[Finding]:
    """Yields the findings of the process, and a problem if it ends early.

    Args:
      seconds: longest duration of one probe.
      messages: an empty file for the standard error of the process.
    """
    place, is_whole = _Place("devices", "start", seconds), False
    with _started(seconds, messages) as process:
        for line in process.stdout or ():
            match _parsed(line):
                case {"place": dict(fields)}:
                    place = _Place(**fields)
                case {"finding": dict(fields)}:
                    yield Finding(**fields | {"level": Level(fields["level"])})
                case {"end": True}:
                    is_whole = True
    messages.seek(0)
    text = messages.read().strip()
    if not is_whole:
        yield _early_end(place, process.returncode, text)
    elif text:
        yield dataclasses.replace(ok("messages of JAX", text[-_MOST:]), part=place.part)


def write(seconds: float) -> None:
    """Prints the findings; this is the program of the process.

    Args:
      seconds: longest duration of one probe. Then the process prints its stack and ends.
    """
    faulthandler.enable()

    def before(part: str, probe: str) -> None:
        place = _Place(part, probe, _limit(part, seconds))
        faulthandler.dump_traceback_later(place.seconds, exit=True)
        _print({"place": place._asdict()})

    for finding in examination.with_jax(before):
        _print({"finding": dataclasses.asdict(finding)})
    _print({"end": True})


@contextlib.contextmanager
def _started(seconds: float, messages: IO[str]) -> Iterator["subprocess.Popen[str]"]:
    program = f"from cnn_jax.doctor import isolated; isolated.write({seconds!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=messages,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(),
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _environment() -> dict[str, str]:
    """Returns the environment of the process, in which it imports the package of this process."""
    added = {"PYTHONIOENCODING": "utf-8"}
    if root := shipped.clone():
        # An installed package needs no path: its directory has all packages, and a module of the
        # standard library would be hidden by a package of its name.
        paths = (str(root), os.environ.get("PYTHONPATH", ""))
        added["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return {**os.environ, **added}


def _limit(part: str, seconds: float) -> float:
    """Returns the longest duration of a probe of a part in seconds."""
    if part != _COMPILING:
        return seconds
    from cnn_jax.ops.native import build  # It imports JAX.

    # `build` ends the compiler earlier, and says so.
    return max(2 * build.COMPILE_SECONDS, seconds)


def _print(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _parsed(line: str) -> Any:
    """Returns the message in a line; None for a line that a library printed."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _early_end(place: _Place, status: int, messages: str) -> Finding:
    """Returns the problem of a process that ended before its last probe."""
    if status == 1 and _HUNG.search(messages):  # faulthandler ends it with this status.
        text = f"no result after {place.seconds:g} s"
        step = _STEPS["compiler" if place.part == _COMPILING else "hang"]
    else:
        fatal = _FATAL.search(messages)
        reason = fatal[1] if fatal else messages[-_MOST:] or "no message"
        text = f"the process ended with status {status}: {' '.join(reason.split())}"
        step = _STEPS["flag" if "XLA_FLAGS" in reason else "end"]
    name = "JAX" if place.probe == "start" else place.probe.replace("_", " ")
    return dataclasses.replace(problem(name, text, step), part=place.part)
