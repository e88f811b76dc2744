"""Predictions of the image files of folders, and the table that they are written to."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cnn_jax import errors
from cnn_jax.data.sources import listing
from cnn_jax.predictor.predicting import Predictor
from cnn_jax.runtime import files

FORMATS = (".csv", ".json")


class Row(NamedTuple):
    """The prediction of an image file.

    Attributes:
      file: the path of the file.
      classes: pairs of class name and probability, the most probable first; empty after an error.
      error: the reason why the file has no prediction; empty if it has one.
    """

    file: Path
    classes: list[tuple[str, float]]
    error: str = ""

    @property
    def name(self) -> str:
        """The path as text; bytes that are not UTF-8 are escape sequences."""
        return listing.text(self.file)


def find(paths: Iterable[Path]) -> list[Path]:
    """Returns image files: files as they are given, and in place of a folder the files below it.

    The files of a folder are those with an ending of `images.EXTENSIONS`, at any depth, sorted.
    Hidden files and folders are left out. Links are followed.

    Raises:
      UserError: a folder has no image file, or cannot be listed.
    """
    found: list[Path] = []
    for path in paths:
        found += _below(path) if path.is_dir() else [path]
    return found


def classify(predictor: Predictor, paths: Sequence[Path], top_k: int) -> Iterator[Row]:
    """Yields the `top_k` most probable classes of each file, in order; reads batch by batch."""
    for file, found in zip(paths, predictor.each(paths), strict=True):
        if isinstance(found, errors.UserError):
            yield Row(file, [], str(found))
        else:
            yield Row(file, predictor.ranked(found.probabilities, top_k))


def check_out(path: Path) -> None:
    """Checks that a table can be written to a new file.

    Raises:
      UserError: the file exists, its folder does not, or its ending is not in `FORMATS`.
    """
    files.check_new(path, FORMATS)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes predictions to a new file: CSV or JSON, by its ending.

    The columns of CSV are `file`, `class`, `probability`, then `class_2`, `probability_2` and so on
    for the next classes, and `error`. JSON is a list of objects with the entries `file`, `classes`
    and `error`. Either is valid UTF-8: other bytes of names are escape sequences.

    Raises:
      UserError: the file exists or cannot be written.
    """
    text = _json(rows) if path.suffix == ".json" else None
    try:
        with path.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            if text is None:
                csv.writer(file).writerows(_table(rows))
            else:
                file.write(text)
    except FileExistsError as error:
        raise files.exists(path) from error
    except OSError as error:
        raise errors.UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _below(folder: Path) -> list[Path]:
    found = [
        path / os.fsdecode(name)
        for path, level in listing.walk(folder, frozenset())
        if level is not None
        for name in level.images
    ]
    if not found:
        raise errors.UserError(
            f"no image file in {folder} or its folders; the names of image files end in .jpg, "
            ".png and so on"
        )
    return sorted(found)


def _table(rows: Sequence[Row]) -> Iterator[list[object]]:
    """Yields the lines of a CSV file, of equal length."""
    columns = max((len(row.classes) for row in rows), default=0)
    names = (f"_{number}" if number > 1 else "" for number in range(1, columns + 1))
    yield ["file", *(f"{word}{end}" for end in names for word in ("class", "probability")), "error"]
    for row in rows:
        empty = [""] * 2 * (columns - len(row.classes))
        cells = row.name, *(part for pair in row.classes for part in pair), *empty, row.error
        # A table is often printed in a terminal.
        yield [errors.printable(cell) if isinstance(cell, str) else cell for cell in cells]


def _json(rows: Sequence[Row]) -> str:
    content = [
        {
            "file": row.name,
            "classes": [
                {"class": _valid(name), "probability": value} for name, value in row.classes
            ],
            "error": _valid(row.error),
        }
        for row in rows
    ]
    return json.dumps(content, indent=1) + "\n"


def _valid(text: str) -> str:
    """Returns a text that every reader of JSON accepts, without lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
