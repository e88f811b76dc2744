"""The environment of a run: `environment.json`, with one entry for each start of the run."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

import cnn_jax
from cnn_jax import errors
from cnn_jax.runs import workdir
from cnn_jax.runtime import imports

ENVIRONMENT = "environment.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def add(directory: Path) -> None:
    """Adds the entry of this process to the environment of the run in `directory`."""
    workdir.save(directory, ENVIRONMENT, {"starts": [*read(directory), describe()]})


def read(directory: Path) -> list[dict[str, Any]]:
    """Returns the entries of a run's starts, oldest first; empty for runs before version 0.2.0.

    Raises:
      UserError: the file is damaged.
    """
    path = directory / ENVIRONMENT
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text())["starts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
            f"{path} is damaged: {error}; move it away to continue without it"
        ) from error


def describe() -> dict[str, Any]:
    """Returns the entry of this process.

    Its keys: `time` (ISO 8601, UTC), `command`, `directory` (the current one), `modules` (those
    that the config names as 'module:attribute', each with the directory that it was found in),
    `commit` (of the Git repository of the current directory), `versions`, `hardware` and
    `environment` (the variables of JAX and XLA).
    """
    devices = jax.devices()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(sys.orig_argv),
        "directory": str(Path.cwd()),
        "modules": imports.directories(),
        "commit": _commit(Path.cwd()),
        "versions": {
            "python": platform.python_version(),
            "cnn_jax": cnn_jax.__version__,
            "cnn_jax_commit": _commit(Path(cnn_jax.__file__).parent),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "hardware": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "devices": f"{len(devices)} {devices[0].device_kind}",
            "processes": jax.process_count(),
        },
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("JAX_", "XLA_", "CNN_JAX_"))
        },
    }


def _commit(directory: Path) -> str:
    """Returns the commit of a directory's Git repository, with ' (changed)'; empty for none."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit} (changed)" if changed else commit


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return result.stdout.strip()


def _processor() -> str:
    """Returns the name of the CPU; `platform.processor` is empty on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model na"))
    except (OSError, StopIteration):
        return platform.processor()
