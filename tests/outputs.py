"""Outputs of commands: printed tables, and the files of a directory."""

from pathlib import Path


def listing(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


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
