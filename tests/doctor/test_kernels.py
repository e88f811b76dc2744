"""Tests of the probes of native kernels and compiled programs."""

import platform
from pathlib import Path
from typing import Any

import jax
import pytest

from cnn_jax.doctor import (
    Level,
    kernels,
    programs,
)
from cnn_jax.ops.native import build, library
from tests.doctor.machines import only

# Native kernels


def test_kernels_that_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(kernels.switch())
    monkeypatch.setenv(library.SWITCH, "0")
    assert "unset" in only(kernels.switch(), Level.NOTE).next_step


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for probe in (kernels.compiler, kernels.library):
        assert "looked for no-such-compiler" in only(probe(), Level.NOTE).text
    for system, step in (("Darwin", "xcode-select"), ("Windows", "WSL2"), ("Plan9", "g++")):
        monkeypatch.setattr(platform, "system", lambda system=system: system)
        assert step in only(kernels.compiler(), Level.NOTE).next_step


@pytest.mark.parametrize(
    ("macros", "words"),
    [
        ("#define __AVX512F__ 1\n#define __AVX__ 1\n#define __AVX512BF16__ 1", "AVX-512"),
        ("#define __AVX__ 1", "AVX, 8 floats in a vector, bfloat16 no"),
        ("#define __aarch64__ 1", "NEON"),
        ("", "4 floats"),
    ],
)
def test_the_instruction_set(monkeypatch: pytest.MonkeyPatch, macros: str, words: str) -> None:
    macros += '\n#define __VERSION__ "Clang 19.1.7 "\n'
    monkeypatch.setattr(build, "compiler", lambda: ["g++", "-m64"])
    monkeypatch.setattr(build, "target", lambda command: build.Target(command, "0"))
    monkeypatch.setattr(build, "macros", lambda command, flags: macros)
    compiler, instructions = kernels.compiler()
    assert compiler.text == "g++ -m64, Clang 19.1.7"
    assert instructions.text.startswith(words)


def test_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "stored", lambda: None)
    assert "not compiled yet" in only(kernels.library(), Level.NOTE).text
    monkeypatch.setattr(library, "stored", lambda: tmp_path / "kernels.so")
    monkeypatch.setattr(library, "has", lambda *_: True)
    assert only(kernels.library(), Level.OK).text.startswith("loaded: ")
    monkeypatch.setattr(library, "has", lambda *_: False)
    assert "delete" in only(kernels.library(), Level.NOTE).next_step


# Compiled programs


def test_the_compilation_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "jax_enable_compilation_cache": False,
        "jax_compilation_cache_dir": None,
    }
    monkeypatch.setattr(type(jax.config), "values", property(lambda config: values))
    assert "disabled" in only(programs.cache(), Level.NOTE).text
    values["jax_enable_compilation_cache"] = True
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert only(programs.cache(), Level.OK).text.startswith("0 programs in")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "compiles its programs" in only(programs.cache(), Level.NOTE).text
    values |= {"jax_compilation_cache_dir": "/cache"}
    assert only(programs.cache(), Level.OK).text.startswith("/cache, ")
