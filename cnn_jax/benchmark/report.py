"""Tables of figures: printed line by line as they come, and kept in a file."""

import csv
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cnn_jax import errors


class Table:
    """Lines on the terminal below a header, and in a new CSV file if one is wanted.

    It has a progress bar on the terminal, which `advance` moves.
    """

    def __init__(
        self,
        versions: Sequence[str],
        rounds: int,
        columns: Sequence[str],
        turns: int,
        csv_path: Path | None,
    ) -> None:
        """Make the file, and print the header.

        Args:
          versions: of what runs.
          rounds: how often each contender is timed.
          columns: their names.
          turns: how many calls of `advance` there will be.
          csv_path: the file.

        Raises:
          ValueError: the file exists; it is not overwritten.
        """
        self._file = None if csv_path is None else _new(csv_path)
        self._writer = None if self._file is None else csv.writer(self._file)
        if self._writer is not None:
            self._writer.writerow(columns)
        print(f"{_machine()}; {', '.join(versions)}; {rounds} rounds\n")
        print(line(columns), line(["---"] * len(columns)), sep="\n")
        self._progress: tqdm[Any] = tqdm(total=turns, unit="turn", file=sys.stderr)

    def advance(self) -> None:
        """Count a turn."""
        self._progress.update()

    def add(self, cells: Sequence[str]) -> None:
        """Print a line, and write it."""
        self._progress.write(line(cells), file=sys.stdout)
        if self._writer is not None and self._file is not None:
            self._writer.writerow(cells)
            self._file.flush()

    def close(self) -> None:
        """End the progress bar and the file."""
        self._progress.close()
        if self._file is not None:
            self._file.close()


def _new(path: Path) -> Any:
    try:
        return path.open("x", newline="")
    except FileExistsError as error:
        raise errors.UserError(f"{path} exists; it is not overwritten") from error


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _machine() -> str:
    """The processor and its number of cores."""
    info = Path("/proc/cpuinfo")
    name, cores = platform.processor(), ""
    if info.exists():
        entries = [entry.partition(":") for entry in info.read_text().splitlines()]
        names = [value.strip() for key, _, value in entries if key.strip() == "model name"]
        name, cores = names[0] if names else name, f", {len(names)} cores"
    return f"{platform.machine()} {name}{cores}"
