"""The commit of a Git repository, and the name of the processor. Needs no JAX."""

import platform
import subprocess
from pathlib import Path


def commit(directory: Path) -> str:
    """Returns the commit of a directory's Git repository; empty if there is no repository.

    ' (changed)' follows if files differ from the commit.
    """
    try:
        found = _git(directory, "rev-parse", "HEAD")
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{found} (changed)" if changed else found


def processor() -> str:
    """Returns the name of the CPU; `platform.processor` is empty on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model na"))
    except (OSError, StopIteration):
        return platform.processor()


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=10)
    return result.stdout.strip()
