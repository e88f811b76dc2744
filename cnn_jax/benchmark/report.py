"""Result tables: printed row by row on the terminal and written to a CSV file."""

import csv
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cnn_jax import errors


class Table:
    """Markdown table on the terminal with a progress bar, and optionally a CSV file.

    Rows are printed and written as soon as they are added.
    """

    def __init__(
        self,
        versions: Sequence[str],
        rounds: int,
        columns: Sequence[str],
        turns: int,
        csv_path: Path | None,
    ) -> None:
        """Creates the CSV file and prints the machine, the versions and the header.

        Args:
          versions: names and versions of the libraries that are timed.
          rounds: number of timed rounds.
          columns: column titles.
          turns: number of calls of `advance` until the progress bar is full.
          csv_path: the CSV file to create, or None.

        Raises:
          errors.UserError: the file exists.
        """
        self._file = None if csv_path is None else _create(csv_path)
        self._writer = None if self._file is None else csv.writer(self._file)
        if self._writer is not None:
            self._writer.writerow(columns)
        print(f"{machine()}; {', '.join(versions)}; {rounds} rounds\n")
        print(line(columns), line(["---"] * len(columns)), sep="\n")
        self._progress: tqdm[Any] = tqdm(total=turns, unit="turn", file=sys.stderr)

    def advance(self) -> None:
        """Moves the progress bar by one turn."""
        self._progress.update()

    def add(self, cells: Sequence[str]) -> None:
        """Prints a row and writes it to the CSV file."""
        self._progress.write(line(cells), file=sys.stdout)
        if self._writer is not None and self._file is not None:
            self._writer.writerow(cells)
            self._file.flush()

    def close(self) -> None:
        """Closes the progress bar and the CSV file."""
        self._progress.close()
        if self._file is not None:
            self._file.close()


def _create(path: Path) -> Any:
    """Returns a new file, opened for writing."""
    try:
        return path.open("x", newline="", encoding="utf-8")
    except FileExistsError as error:
        raise exists(path) from error


def exists(path: Path) -> errors.UserError:
    """Returns the error for an output path that exists already."""
    return errors.UserError(f"{path} already exists; choose a new path")


def line(cells: Sequence[str]) -> str:
    """Returns a row of a Markdown table.

    >>> line(["lenet", "4.1"])
    '| lenet | 4.1 |'
    """
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """Returns the architecture, the processor's name and, on Linux, the number of cores."""
    info = Path("/proc/cpuinfo")
    name, cores = platform.processor(), ""
    if info.exists():
        entries = [entry.partition(":") for entry in info.read_text(encoding="utf-8").splitlines()]
        names = [value.strip() for key, _, value in entries if key.strip() == "model name"]
        name, cores = names[0] if names else name, f", {len(names)} cores"
    return f"{platform.machine()} {name}{cores}"
