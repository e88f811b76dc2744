"""The files of a thorough evaluation: JSON, rows of the examples, confusion matrix, reliability."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import limits
from cnn_jax.evaluators import example_rows, result_files, results_csv
from cnn_jax.evaluators.example_rows import ExampleRows
from cnn_jax.evaluators.scores import PerExample
from cnn_jax.runs import plots, workdir
from cnn_jax.runtime import files

_OF_CLASSES = ("precision", "recall", "f1", "examples", "predicted")


@dataclasses.dataclass(frozen=True, eq=False)
class Thorough:
    """The result of a thorough evaluation.

    Attributes:
      content: the content of the JSON file, without classes and confusion matrix.
      found: the scores of each example.
      class_names: the classes that were compared, K.
      rows: the outcome of each example.
      reliability: the tables of confidence and accuracy, by the title of their panel.
      path: the JSON file; None if the result is not written.
      confusion: whether the confusion matrix of any number of classes is written.
      written: the files that were written.
      unwritten: the reasons why others were not, such as a read-only work directory.
    """

    content: Mapping[str, Any]
    found: PerExample
    class_names: tuple[str, ...]
    rows: ExampleRows
    reliability: Mapping[str, Sequence[Mapping[str, Any]]]
    path: Path | None
    confusion: bool = False
    written: tuple[Path, ...] = ()
    unwritten: tuple[str, ...] = ()

    @property
    def per_class(self) -> dict[str, dict[str, float | int | None]]:
        """Precision, recall, F1 and counts of each class; None for what is undefined."""
        table = self.found.per_class()
        columns = [getattr(table, column).tolist() for column in _OF_CLASSES]
        return {
            name: {
                column: None if math.isnan(value) else value
                for column, value in zip(_OF_CLASSES, values, strict=True)
            }
            for name, values in zip(self.class_names, zip(*columns, strict=True), strict=True)
        }


def check_out(out: Path) -> None:
    """Checks that `--out` names files that can be created.

    Raises:
      UserError: it does not end in .json, a file exists, or the folder cannot be written.
    """
    files.check_new(out, (".json",))
    for path in _paths(out).values():
        if os.path.lexists(path):
            raise files.exists(path)


def write(
    result: Thorough, csv: Path | None = None, lines: Sequence[Mapping[str, Any]] = ()
) -> Thorough:
    """Writes the files of a result, and returns it with those that were and were not written.

    Args:
      result: the result. Without a path, only the table is written.
      csv: a table that gets lines, or None.
      lines: these lines; see `results_csv.append`.
    """
    writers = [] if result.path is None else _writers(result, result.path)
    if csv is not None:
        writers.append((csv, lambda: results_csv.append(csv, lines)))
    written, unwritten = result_files.write(writers)
    return dataclasses.replace(result, written=written, unwritten=unwritten)


def _writers(result: Thorough, path: Path) -> list[tuple[Path, Callable[[], None]]]:
    """Returns the files, each with the function that writes it."""
    paths = _paths(path)
    content = {**result.content, "per_class": result.per_class}
    about = result.content
    title = f"{' + '.join(about['models'])}, {about['data']}, {about['split']}"
    is_small = len(result.class_names) <= limits.MAX_CONFUSION_CLASSES
    matrix = result.found.confusion() if is_small or result.confusion else np.zeros((0, 0))
    if is_small:
        content["confusion"] = matrix.tolist()

    def store() -> None:
        with files.replacing(paths["confusion"], ".npy") as temporary:
            np.save(temporary, matrix)

    found: list[tuple[Path, Callable[[], None]]] = [
        (path, lambda: workdir.save(path.parent, path.name, content)),
        (paths["rows"], lambda: example_rows.write(paths["rows"], result.rows)),
    ]
    if is_small:
        picture = paths["picture"]
        draw = (matrix, result.class_names, title, picture)
        found.append((picture, lambda: plots.confusion(*draw)))
    elif matrix.size:
        found.append((paths["confusion"], store))
    if "calibration" in about:
        plot = (result.reliability, title, paths["reliability"])
        found.append((paths["reliability"], lambda: plots.reliability(*plot)))
    return found


def _paths(path: Path) -> dict[str, Path]:
    """Returns the paths of the files beside a JSON file."""
    return {
        "rows": path.with_suffix(".npz"),
        "picture": path.with_suffix(".png"),
        "confusion": path.with_suffix(".npy"),
        "reliability": path.with_name(f"{path.stem}-reliability.png"),
    }
