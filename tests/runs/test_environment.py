"""Tests of what a run's environment says about the rounding of its results."""

import json
import os
from typing import Any

import pytest

from cnn_jax.runs import environment
from cnn_jax.runtime import threads


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def changed(section: str, key: str, value: Any) -> dict[str, Any]:
    """Returns the entry of a start in this environment, with another value."""
    entry = json.loads(json.dumps(environment.describe()))
    entry[section][key] = value
    return dict(entry)


def test_an_unchanged_environment_needs_no_note() -> None:
    assert environment.note([]) == ""
    assert environment.note([environment.describe()]) == ""


@pytest.mark.parametrize(
    ("section", "key", "value", "text"),
    [
        ("versions", "jaxlib", "0.0.1", "jaxlib 0.0.1 before, "),
        ("hardware", "devices", "8 TPU v4", "devices 8 TPU v4 before, 1 cpu now"),
        ("hardware", "processor", "Z80", "processor Z80 before, "),
        ("hardware", "threads", 64, f"threads 64 before, {threads.cores()} now"),
        ("environment", "CNN_JAX_NATIVE", "0", "CNN_JAX_NATIVE 0 before, (not set) now"),
    ],
)
def test_a_change_that_rounds_otherwise_is_one_line(
    section: str, key: str, value: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CNN_JAX_NATIVE", raising=False)
    (line,) = environment.note([changed(section, key, value)]).splitlines()
    assert text in line
    assert "can differ in their last bits" in line


@pytest.mark.parametrize("entry", [{}, {"hardware": 3}, {"versions": {"jax": None}}])
def test_entries_of_another_form_are_no_error(entry: dict[str, Any]) -> None:
    assert isinstance(environment.note([entry]), str)
    assert environment.num_threads([entry]) is None


def test_a_run_that_keeps_its_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    number = threads.cores() + 1
    monkeypatch.setenv(threads.VARIABLES[0], str(number))
    line = environment.note([changed("hardware", "threads", number)])
    assert line.startswith(f"threads of XLA: {number}, as before")
    assert f"cores: {threads.cores()}; " in line
    assert threads.VARIABLES[0] in line


def test_old_entries_without_threads_change_nothing() -> None:
    entry = environment.describe()
    del entry["hardware"]["threads"]
    assert environment.num_threads([entry]) is None
    assert environment.note([entry]) == ""


@pytest.mark.parametrize(
    ("variables", "number"),
    [({"NPROC": "3"}, 3), ({"PJRT_NPROC": "5", "NPROC": "3"}, 5), ({"PJRT_NPROC": "0"}, 1)],
)
def test_the_number_of_threads_is_that_of_xla(
    variables: dict[str, str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threads.number() == threads.cores()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert threads.number() == number


def test_a_client_that_has_started_keeps_its_threads() -> None:
    environment.describe()  # Asks JAX for its devices.
    threads.pin(threads.cores() + 1)
    assert not any(name in os.environ for name in threads.VARIABLES)
