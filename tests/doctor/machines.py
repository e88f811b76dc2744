"""Parts of simulated machines for the tests of the doctor."""

import importlib.metadata
from collections.abc import Callable, Iterable
from typing import NoReturn

import pytest

from cnn_jax.doctor import (
    Finding,
    Level,
)


def only(findings: Iterable[Finding], level: Level) -> Finding:
    """Returns the only finding, which has this level, and a next step unless it is ok."""
    (found,) = findings
    assert found.level is level, found
    assert bool(found.next_step) == (level is not Level.OK)
    return found


def raiser(error: Exception) -> Callable[..., NoReturn]:
    def fail(*arguments: object, **options: object) -> NoReturn:
        raise error

    return fail


def install(monkeypatch: pytest.MonkeyPatch, packages: dict[str, str]) -> None:
    """Simulates the installed versions of packages; an empty one is not installed."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if packages.get(name) == "":
            raise importlib.metadata.PackageNotFoundError(name)
        return packages.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
