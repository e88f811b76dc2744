"""Outputs of commands: printed tables, imported modules, and the files of a directory."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def listing(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


def assert_help_is_light(module: str) -> None:
    """Asserts that `python -m MODULE --help` explains the command and does not import JAX."""
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"usage: python -m {module}")
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "cnn_jax.runtime.console" in imported
    assert "jax" not in imported


def table(output: str) -> dict[str, str]:
    """Returns the rows of an aligned table of two columns, by the first column."""
    lines = output.splitlines()
    width = max(len(line.partition("  ")[0].rstrip()) for line in lines) + 2
    for line in lines:
        assert line[width - 2 : width] == "  "
        assert line[width] != " "
        assert line[:width].rstrip().endswith(":")
    rows = {line[:width].rstrip().removesuffix(":"): line[width:] for line in lines}
    assert len(rows) == len(lines)
    return rows
