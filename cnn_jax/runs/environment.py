"""The environment of a run: `environment.json`, with one entry for each start of the run."""

import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import cnn_jax
from cnn_jax import errors, limits
from cnn_jax.runs import workdir
from cnn_jax.runtime import files, imports, machine, threads

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


# The parts of an entry on which the rounding of results depends.
_ROUNDING = {
    "versions": ("cnn_jax", "jax", "jaxlib"),
    "hardware": ("processor", "threads", "devices", "processes"),
}
_ROUNDING_VARIABLES = ("CNN_JAX_NATIVE", "JAX_ENABLE_X64", "XLA_FLAGS")


def add(directory: Path) -> None:
    """Adds the entry of this process to the environment of the run in `directory`."""
    workdir.save(directory, workdir.ENVIRONMENT, {"starts": [*read(directory), describe()]})


def read(directory: Path) -> list[dict[str, Any]]:
    """Returns the entries of a run's starts, oldest first; empty for runs before version 0.2.0.

    Raises:
      UserError: the file is damaged.
    """
    path = directory / workdir.ENVIRONMENT
    try:
        starts = files.read_json(path, limits.MAX_STORED_BYTES).get("starts")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except errors.UserError as error:
        raise errors.UserError(f"{error}; move it away to continue without it") from error
    if isinstance(starts, list) and all(isinstance(start, dict) for start in starts):
        return starts
    raise errors.UserError(
        f"{path} is damaged: it has no list of starts; move it away to continue without it"
    )


def num_threads(starts: Sequence[Mapping[str, Any]]) -> object:
    """Returns the threads of XLA in the last start; None if no number is stored."""
    return _values(starts[-1]).get("threads") if starts else None


def note(starts: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line that lists changes since the last start that affect rounding, or "".

    It also says if the number of cores changed and the run keeps its number of threads.

    Args:
      starts: the entries of the earlier starts.
    """
    if not starts:
        return ""
    before = _values(starts[-1])
    now = _values({"versions": _versions(), "hardware": _hardware(), "environment": {**os.environ}})
    if jax.default_backend() != "cpu":
        del now["threads"]
    changed = [
        f"{key} {before[key]} before, {value} now"
        for key, value in now.items()
        if key in before and before[key] != value
    ]
    if changed:
        return (
            f"the environment has changed: {'; '.join(changed)}; the parameters can differ in "
            "their last bits from those of an uninterrupted run"
        )
    if now.get("threads", threads.cores()) == threads.cores() or "threads" not in before:
        return ""
    return (
        f"threads of XLA: {now['threads']}, as before, for the same bits; cores: "
        f"{threads.cores()}; to change the number, set {threads.VARIABLES[0]}"
    )


def _values(start: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those parts of an entry on which the rounding of results depends."""
    parts = {name: part for name, part in start.items() if isinstance(part, dict)}
    found: dict[str, Any] = {}
    for section, keys in _ROUNDING.items():
        part = parts.get(section, {})
        found |= {key: part[key] for key in keys if key in part}
    if "environment" in parts:
        variables = parts["environment"]
        found |= {name: variables.get(name, "(not set)") for name in _ROUNDING_VARIABLES}
    return found


def describe() -> dict[str, Any]:
    """Returns the entry of this process.

    Its keys: `time` (ISO 8601, UTC), `command`, `directory` (the current one), `modules` (those
    that the config names as 'module:attribute', each with the directory that it was found in),
    `commit` (of the Git repository of the current directory), `versions`, `hardware` and
    `environment` (the variables of JAX and XLA).
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(sys.orig_argv),
        "directory": str(Path.cwd()),
        "modules": imports.directories(),
        "commit": machine.commit(Path.cwd()),
        "versions": {
            "cnn_jax_commit": machine.commit(Path(cnn_jax.__file__).parent),
            **_versions(),
        },
        "hardware": _hardware(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("JAX_", "XLA_", "CNN_JAX_"))
        },
    }


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "cnn_jax": cnn_jax.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _hardware() -> dict[str, Any]:
    devices = jax.devices()
    return {
        "system": platform.platform(),
        "processor": machine.processor(),
        "cores": os.cpu_count(),
        "threads": threads.number(),
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "processes": jax.process_count(),
    }
