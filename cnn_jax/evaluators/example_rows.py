"""The outcome of each example of an evaluation, as a file, and its comparison with an earlier one.

The file is an `.npz` of NumPy without pickled objects. `numpy.load` reads it.
"""

import dataclasses
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.data import imagenet
from cnn_jax.evaluators import intervals
from cnn_jax.evaluators.scores import PerExample
from cnn_jax.runtime import files

SEED = 0
"""Seed of all bootstrap intervals of a result."""

_KINDS = {
    "names": "U",
    "labels": "i",
    "predicted": "i",
    "right": "b",
    "confidence": "f",
    "nll": "f",
    "class_names": "U",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The examples of an evaluation.

    Attributes:
      names: `[N]` texts.
      labels: `[N]` int64, the true classes.
      class_names: `[K]` texts.
    """

    names: np.ndarray
    labels: np.ndarray
    class_names: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleRows(Examples):
    """The outcome of each of N examples.

    Attributes:
      predicted: `[N]` int64, the predicted classes.
      right: `[N]` bool, True for right predictions.
      confidence: `[N]` float64, the probabilities of the predictions.
      nll: `[N]` float64, the negative log-likelihoods in nats.
    """

    predicted: np.ndarray
    right: np.ndarray
    confidence: np.ndarray
    nll: np.ndarray


def of_scores(examples: Examples, found: PerExample) -> ExampleRows:
    """Returns the rows of scores.

    Args:
      examples: the examples, in the order of the scores.
      found: their scores.
    """
    return ExampleRows(
        *(examples.names, examples.labels, examples.class_names),
        *(found.predicted, found.right(), found.confidence, found.nll),
    )


def write(path: Path, rows: ExampleRows) -> None:
    """Writes rows to an `.npz` file; one that is there is replaced.

    Raises:
      UserError: the file cannot be written.
    """
    columns = {name: getattr(rows, name) for name in _KINDS}
    with files.replacing(path, ".npz") as temporary:
        np.savez_compressed(temporary, **columns)


def read(result: Path) -> ExampleRows:
    """Reads the rows beside a result.

    Args:
      result: the `.json` file of the result; its rows have the ending `.npz`.

    Raises:
      UserError: there are none, or the file is damaged.
    """
    if result.suffix != ".json":
        raise errors.UserError(
            f"--against must name the .json file of an earlier evaluation, got {result}"
        )
    path = result.with_suffix(".npz")
    try:
        with files.open_regular(path) as file:
            _check_size(file)
            with np.load(file, allow_pickle=False) as arrays:
                columns = {name: arrays[name] for name in _KINDS}
    except FileNotFoundError as error:
        raise errors.UserError(
            f"there is no {path}, the rows of {result}; --against compares with a result that was "
            "written with --views, --calibrate, --csv or another of these flags"
        ) from error
    except Exception as error:  # Damaged files raise many types, such as zlib.error.
        raise errors.UserError(f"{path} cannot be read: {error}; evaluate again") from error
    rows = ExampleRows(**columns)
    if not _is_valid(rows):
        raise errors.UserError(f"{path} is not a file of an evaluation's rows; evaluate again")
    return rows


def _check_size(file: BinaryIO) -> None:
    """Checks the size of the unpacked arrays, and that the file is an archive.

    Raises:
      ValueError: the arrays exceed the limit.
      zipfile.BadZipFile: it is another kind of file.
    """
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > limits.MAX_ROWS_BYTES:
        raise ValueError(
            f"its arrays have {size:,} bytes, more than the limit of {limits.MAX_ROWS_BYTES:,}"
        )
    file.seek(0)


def _is_valid(rows: ExampleRows) -> bool:
    columns = {name: getattr(rows, name) for name in _KINDS}
    if any(
        column.ndim != 1 or column.dtype.kind != _KINDS[name] for name, column in columns.items()
    ):
        return False
    sizes = {len(column) for name, column in columns.items() if name != "class_names"}
    if len(sizes) != 1 or not len(rows.labels):
        return False
    inside = (rows.labels >= 0) & (rows.labels < len(rows.class_names))
    return bool(inside.all() and np.isfinite(rows.nll).all())


def match(examples: Examples, earlier: ExampleRows, title: str) -> np.ndarray:
    """Returns the row of `earlier` of each of the examples, `[N]` int64; names identify them.

    Names that occur twice identify nothing, so then the order must be the same.

    Args:
      examples: the examples.
      earlier: the rows of an earlier evaluation.
      title: the name of its file, for messages.

    Raises:
      UserError: other classes, other examples or other labels.
    """
    classes = [imagenet.readable(each.class_names.tolist()) for each in (examples, earlier)]
    if classes[0] != classes[1]:
        raise errors.UserError(
            f"{title} was evaluated on other classes ({len(classes[1]):,} and "
            f"{len(classes[0]):,}, or in another order); compare results with the same classes"
        )
    order = _order(examples.names.tolist(), earlier.names.tolist(), title)
    same = earlier.labels[order] == examples.labels
    if not same.all():
        row = int(same.argmin())
        raise errors.UserError(
            f"{title} has another label for {str(examples.names[row])!r} and "
            f"{int((~same).sum()):,} of {len(same):,} examples; compare results on the same data"
        )
    return order


def _order(names: list[str], earlier: list[str], title: str) -> np.ndarray:
    if names == earlier:
        return np.arange(len(names))
    places = {name: row for row, name in enumerate(earlier)}
    own = set(names)
    missing = [name for name in names if name not in places]
    further = [name for name in earlier if name not in own]
    if missing or further:
        raise errors.UserError(
            f"{title} has other examples: {len(missing):,} are only in this evaluation and "
            f"{len(further):,} only there, such as {(missing or further)[0]!r}; evaluate both on "
            "the same split of the same data set"
        )
    if len(own) < len(names) or len(places) < len(earlier):
        raise errors.UserError(
            f"{title} cannot be matched: names of examples occur twice, and their order differs; "
            "evaluate both on the same split of the same data set"
        )
    return np.array([places[name] for name in names])


def compare(rows: ExampleRows, earlier: ExampleRows, order: np.ndarray) -> dict[str, Any]:
    """Returns the differences from an earlier evaluation of the same examples.

    Args:
      rows: of this evaluation.
      earlier: of the earlier one.
      order: the result of `match`.

    Returns:
      'top1_difference' and 'nll_difference', this one minus the earlier one, each with its
      '..._interval', the ends of its bootstrap interval; and the result of McNemar's test:
      'only_this' and 'only_earlier', the numbers of examples that only one of them predicts
      rightly, and 'p_value'.
    """
    found: dict[str, Any] = {}
    right = earlier.right[order]
    differences = {
        "top1": rows.right * 1.0 - right,
        "nll": rows.nll - earlier.nll[order],
    }
    for name, values in differences.items():
        found[f"{name}_difference"] = float(values.mean())
        found[f"{name}_difference_interval"] = list(intervals.bootstrap(values, seed=SEED))
    test = intervals.mcnemar(rows.right, right)
    return {
        **found,
        "only_this": test.only_a,
        "only_earlier": test.only_b,
        "p_value": test.p_value,
    }
