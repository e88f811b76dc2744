"""Compiles the native kernels with the machine's C++ compiler."""

import contextlib
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import jax

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-pthread")
_FOR_MACHINE = ("-march=native",)  # for the instructions of this machine
# Tried on arm64 in this order if the compiler refuses `_FOR_MACHINE`, as Apple's clang 14 does
# (github.com/madmann91/minbool/pull/5). Without a flag it compiles for the M1
# (github.com/cda-tum/dd_package/pull/30). Elsewhere, the kernels would lack vector instructions.
_FOR_ARM64 = (("-mcpu=native",), ())
_ARM64 = ("arm64", "aarch64")  # its names on macOS and on Linux
# A message names the flag or quotes the CPU; the path of the compiler can hold the word too.
_REFUSAL = re.compile(r"(?<!\w)-m(arch|cpu)\b|'native'")
_COMPILERS = ("c++", "g++", "clang++")
# A compiler that takes longer hangs. Without load, the two steps take 0.1 s and half a minute.
PROBE_SECONDS = 60.0
COMPILE_SECONDS = 900.0
_LONGEST_MESSAGE = 1000  # characters of a compiler's output in an error


class _RefusedError(OSError):
    """Raised if a compiler refuses the flag for the instructions of this machine."""


class Target(NamedTuple):
    """Compiler that is ready for this machine.

    Attributes:
      command: the command of the compiler with its flags.
      version: a hash of the sources, the flags, the compiler, its target CPU and JAX's version.
    """

    command: list[str]
    version: str


def compiler() -> list[str]:
    """Returns the command of the C++ compiler: `CXX`, or the first one that is installed.

    `CXX` may hold a launcher and flags, and is split as a shell does: "ccache g++ -m64".

    Raises:
      FileNotFoundError: there is no compiler, or the system is Windows.
      OSError: the quotes of `CXX` do not match.
    """
    if os.name == "nt":
        # MSVC has no vector extension, and the kernels were never tried with MinGW or LLVM there.
        raise FileNotFoundError("the native kernels have no build for Windows")
    if (given := os.environ.get("CXX")) is None:
        commands = [[name] for name in _COMPILERS]
    else:
        try:
            commands = [shlex.split(given)]
        except ValueError as error:
            raise OSError(f"CXX is {given!r}: {error}") from error
    for command in commands:
        if command and (found := shutil.which(command[0])):
            return [found, *command[1:]]
    names = ", ".join(command[0] if command else "''" for command in commands)
    raise FileNotFoundError(
        f"no C++ compiler found, looked for {names}; install one, or set CXX to its path"
    )


def target(command: Sequence[str]) -> Target:
    """Returns a compiler with the flags for this machine.

    Args:
      command: the command of the compiler.

    Raises:
      OSError: the compiler fails, or does not end.
    """
    flags, macros = _for_machine(command)
    digest = hashlib.sha256(f"{flags}{command[1:]}{macros}{jax.__version__}".encode())
    for source in sources(".h", ".cc"):
        digest.update(source.read_bytes())
    return Target([*command, *flags], digest.hexdigest()[:16])


def _for_machine(command: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Returns the first flags that the compiler accepts, and the macros that it then predefines."""
    others = _FOR_ARM64 if platform.machine() in _ARM64 else ()
    *refusable, last = ((*FLAGS, *flags) for flags in (_FOR_MACHINE, *others))
    for flags in refusable:
        with contextlib.suppress(_RefusedError):
            return flags, macros(command, flags)
    return last, macros(command, last)


def macros(command: Sequence[str], flags: Sequence[str]) -> str:
    """Returns the predefined macros of a compiler, which name the target CPU's instructions.

    Raises:
      _RefusedError: the compiler does not know the CPU 'native'.
      OSError: the compiler fails, or does not end.
    """
    try:
        (found,) = run([[*command, *flags, "-dM", "-E", "-x", "c++", os.devnull]], PROBE_SECONDS)
    except OSError as error:
        if _REFUSAL.search(str(error)):
            raise _RefusedError(*error.args) from error
        raise
    return found


def sources(*suffixes: str) -> list[Path]:
    """Returns the source files with one of the suffixes, in a fixed order."""
    return sorted(path for path in SOURCES.iterdir() if path.suffix in suffixes)


def compile_objects(
    command: Sequence[str], files: Sequence[Path], flags: Sequence[str], directory: Path
) -> list[str]:
    """Compiles each file to an object file in `directory`, all at the same time.

    Raises:
      OSError: the compiler fails, or does not end.
    """
    objects = [str(directory / f"{file.stem}.o") for file in files]
    options = [*flags, "-isystem", jax.ffi.include_dir(), "-c"]
    pairs = zip(files, objects, strict=True)
    run([[*command, *options, str(file), "-o", made] for file, made in pairs], COMPILE_SECONDS)
    return objects


def compile_library(command: Sequence[str], library: Path) -> None:
    """Compiles the kernels to a shared library. Its directory also holds the object files.

    Args:
      command: the command of the compiler with its flags.
      library: the file to write.

    Raises:
      OSError: the compiler fails, or does not end.
    """
    objects = compile_objects(command, sources(".cc"), (), library.parent)
    run([[*command, "-shared", *objects, "-o", str(library)]], COMPILE_SECONDS)


def run(commands: Sequence[Sequence[str]], seconds: float) -> list[str]:
    """Runs commands at the same time and returns their standard outputs.

    Raises:
      OSError: a command cannot be started, fails, or has not ended after `seconds`. No command is
        left running, nor a process that it has started.
    """
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_started(command)) for command in commands]
        for command, (process, _, messages) in zip(commands, started, strict=True):
            try:
                status = process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                raise OSError(f"{command[0]} has not ended after {seconds:.0f} s") from None
            if status:
                raise OSError(f"{command[0]} failed: {_one_line(messages)}")
        return [_content(output) for _, output, _ in started]


@contextlib.contextmanager
def _started(
    command: Sequence[str],
) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes], IO[bytes]]]:
    """Starts a command in a process group of its own, which is killed at the end of the context.

    Its outputs are files. A pipe could fill up, and stays open in processes that inherit it.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=messages, process_group=0
        )
        try:
            yield process, output, messages
        finally:
            # Only Windows has no groups, and `compiler` finds none there.
            if hasattr(os, "killpg") and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _one_line(messages: IO[bytes]) -> str:
    return " ".join(_content(messages).split())[:_LONGEST_MESSAGE]
