"""Native CPU kernels: the compiler, the instruction set, and the compiled library."""

import os
import platform
import shlex
from collections.abc import Iterator

from cnn_jax.doctor.findings import Finding, note, ok

_SLOWER = "so a CPU uses XLA's operations, which are slower"
# The macro that a compiler defines for each instruction set that the kernels use, best first.
_INSTRUCTIONS = {
    "__AVX512F__": "AVX-512, 16 floats in a vector",
    "__AVX__": "AVX, 8 floats in a vector",
    "__aarch64__": "NEON, 4 floats in a vector",
}
_INSTALL = {
    "Darwin": "xcode-select --install, or set CXX to a C++20 compiler (GCC, Clang)",
    "Linux": "sudo apt-get install g++, or set CXX to a C++20 compiler (GCC, Clang)",
    "Windows": "use WSL2 (Windows Subsystem for Linux) to have the kernels",
}
_BFLOAT16 = "__AVX512BF16__"


def switch() -> Iterator[Finding]:
    """Yields a note if the kernels are switched off."""
    from cnn_jax.ops.native import library

    if os.environ.get(library.SWITCH) == "0":
        yield note("kernels", f"{library.SWITCH} is 0, {_SLOWER}", f"unset {library.SWITCH}")


def compiler() -> Iterator[Finding]:
    """Yields a finding with the C++ compiler and the instruction set that it generates."""
    from cnn_jax.ops.native import build

    try:
        command = build.target(build.compiler()).command
        macros = build.macros(command, ())
    except OSError as error:
        step = _INSTALL.get(platform.system(), _INSTALL["Linux"])
        yield note("compiler", f"{error}, {_SLOWER}", step)
        return
    yield ok("compiler", f"{shlex.join(command)}, {_compiler_version(macros)}")
    defined = {line.split()[1] for line in macros.splitlines() if line.startswith("#define ")}
    found = next((text for macro, text in _INSTRUCTIONS.items() if macro in defined), "4 floats")
    yield ok("instruction set", f"{found}, bfloat16 {'yes' if _BFLOAT16 in defined else 'no'}")


def library() -> Iterator[Finding]:
    """Yields a finding with the compiled library, or with the reason why there is none."""
    import jax.numpy as jnp

    from cnn_jax.ops.native import library

    try:
        path = library.stored()
    except (OSError, RuntimeError) as error:
        step = "see the compiler and the cache above"
        yield note("library", f"cannot be compiled: {' '.join(str(error).split())}", step)
        return
    if path is None:
        text = "not compiled yet"
        step = "start a training on a CPU, which compiles it once, in 10 to 60 s"
        yield note("library", text, step)
    elif library.has("ConvOutput", jnp.zeros(1)):
        yield ok("library", f"loaded: {path}")
    elif os.environ.get(library.SWITCH) != "0":
        step = f"delete {path}, and repeat this command"
        yield note("library", f"{path} cannot be loaded, {_SLOWER}", step)


def _compiler_version(macros: str) -> str:
    """Returns the version in the macro __VERSION__, such as 'Debian Clang 19.1.7'."""
    lines = (line for line in macros.splitlines() if line.startswith("#define __VERSION__ "))
    return next(lines, '"unknown version"').partition('"')[2].rstrip('" ')
