"""Versions of Python, of this package, and of the required packages against their bounds."""

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cnn_jax
from cnn_jax.doctor.findings import Finding, note, ok, problem
from cnn_jax.runtime import machine, shipped

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_LEAST_PYTHON = (3, 11)
_NEWEST_JAX_PYTHON = (3, 12)  # JAX 0.11 dropped Python 3.11; pip then installs JAX 0.10.2.
_PACKAGE = Path(cnn_jax.__file__).parent


def python() -> Iterator[Finding]:
    """Yields a finding with the version of Python and the operating system."""
    version = _python_version()
    text = f"{'.'.join(map(str, version))} on {platform.system()}, {platform.machine()}"
    step = "create an environment with Python 3.12 or newer, and install the requirements there"
    if version[:2] < _LEAST_PYTHON:
        yield problem("python", f"{text}; 3.11 is the oldest supported version", step)
    elif version[:2] < _NEWEST_JAX_PYTHON:
        yield note("python", f"{text}; JAX 0.10.2 is the last one for it", step)
    else:
        yield ok("python", text)


def package() -> Iterator[Finding]:
    """Yields a finding with the version, the commit and the directory of this package."""
    commit = machine.commit(_PACKAGE)
    parts = [cnn_jax.__version__, f"commit {commit}" if commit else "", str(_PACKAGE)]
    yield ok("cnn_jax", ", ".join(filter(None, parts)))


def requirements() -> Iterator[Finding]:
    """Yields a finding for each required package: its version, and whether it fits its bounds."""
    for requirement in _required():
        version = installed(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        install = f"python -m pip install {shlex.quote(wanted)}"
        if version is None:
            yield problem(requirement.name, f"not installed; {wanted} is required", install)
        elif not requirement.specifier.contains(version, prereleases=True):
            yield problem(requirement.name, f"{version}; {wanted} is required", install)
        else:
            yield ok(requirement.name, version)
    if version := installed("jaxlib"):
        yield ok("jaxlib", version)


def conflicts() -> Iterator[Finding]:
    """Yields a note for each bound of a required package that another package does not meet."""
    for name in ("jaxlib", *(each.name for each in _required())):
        for needed in _needed_by(name):
            version = installed(needed.name)
            if version is not None and not needed.specifier.contains(version, prereleases=True):
                yield note(
                    needed.name,
                    f"{version}; {name} {installed(name)} needs {needed.name}{needed.specifier}",
                    f"python -m pip install --upgrade {name} {needed.name}",
                )


def installed(name: str) -> str | None:
    """Returns the installed version of a package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python_version() -> tuple[int, int, int]:
    return sys.version_info[:3]


def _required() -> list["Requirement"]:
    """Returns the requirements of this package that hold on this machine."""
    if root := shipped.clone():
        lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
        return _parsed([line.partition(" #")[0] for line in lines if line[:1] not in ("", "#")])
    return _parsed(importlib.metadata.requires("cnn_jax") or [])


def _needed_by(name: str) -> list["Requirement"]:
    """Returns the requirements of an installed package, without those of its extras."""
    try:
        return _parsed(importlib.metadata.requires(name) or [])
    except importlib.metadata.PackageNotFoundError:
        return []


def _parsed(lines: list[str]) -> list["Requirement"]:
    """Returns the requirements whose environment markers hold on this machine."""
    from packaging.requirements import Requirement

    found = [Requirement(line) for line in lines]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
