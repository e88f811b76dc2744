"""Table of results as a CSV file, one line for each evaluation, with timm's columns first.

timm's columns are those of its `results/results-imagenet.csv`: accuracies and errors in percent,
parameters in millions.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import errors, limits
from cnn_jax.evaluators import view_inputs
from cnn_jax.predictor import Predictor
from cnn_jax.runtime import files

_OF_TIMM = (
    *("model", "top1", "top1_err", "top5", "top5_err"),
    *("param_count", "img_size", "crop_pct", "interpolation"),
)
_OWN = (
    *("checkpoint", "data", "split", "examples", "views", "mean", "soup", "subset"),
    *("corruption", "severity"),
    *("top1_low", "top1_high", "nll", "brier", "ece"),
    *("macro_precision", "macro_recall", "macro_f1"),
    *("temperature", "calibrated_nll", "calibrated_brier", "calibrated_ece"),
    *("real_top1", "real_top5"),
)
COLUMNS = (*_OF_TIMM, *_OWN)
"""The columns: timm's, then ours.

Accuracies and errors are in percent, parameters in millions. `top1_low` and `top1_high` are the
ends of the interval at 95 %. Only lines of corruption sweeps have a `corruption` and a `severity`.
"""

_PERCENT = ("top1", "top5", "top1_low", "top1_high", "real_top1", "real_top5")


def check(path: Path) -> None:
    """Checks that a line can be appended to a table.

    Raises:
      UserError: the name does not end in .csv, the folder does not exist or cannot be written, or
        the file is no table of results.
    """
    if path.suffix != ".csv":
        raise errors.UserError(f"--csv must end in .csv, got {path}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise errors.UserError(f"the folder of --csv {path} does not exist; make it first")
    if not os.path.lexists(path):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise errors.UserError(f"the folder of --csv {path} cannot be written; choose another")
        return
    text = _content(path)
    found = next(csv.reader([text.partition("\n")[0]]), [])
    if text and tuple(found) != COLUMNS:
        raise errors.UserError(
            f"{path} has other columns, {errors.listed(found)}, and is not changed; choose "
            f"another --csv. The columns are {', '.join(COLUMNS)}"
        )
    if not os.access(path, os.W_OK):
        raise errors.UserError(f"{path} cannot be written; choose another --csv")


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends lines to a table in one write; a new table gets a header.

    Args:
      path: the file.
      rows: the values of `COLUMNS` in each line; those that are missing stay empty.

    Raises:
      UserError: see `check`.
    """
    check(path)
    text = _content(path) if os.path.lexists(path) else ""
    lines = io.StringIO("\n" if text and not text.endswith("\n") else "")
    lines.seek(0, os.SEEK_END)
    writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
    if not text:
        writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(lines.getvalue())
    except OSError as error:
        raise errors.UserError(f"{path} cannot be written: {files.reason(path, error)}") from error


def row(content: Mapping[str, Any], predictors: Sequence[Predictor]) -> dict[str, Any]:
    """Returns the line of a result.

    Args:
      content: the content of its JSON file. Of a corruption sweep, the content without the table,
        with the values of one corruption and severity.
      predictors: its networks.
    """
    flat = {**content, **content.get("calibration", {}), **content.get("real", {})}
    flat["soup"] = content.get("soup", {}).get("kind", "")
    if "intervals" in content:
        flat["top1_low"], flat["top1_high"] = content["intervals"]["top1"]
    found = {name: flat[name] for name in _OWN if name in flat}
    found |= {name: round(100 * flat[name], 3) for name in _PERCENT if name in flat}
    found |= {
        f"{name}_err": round(100 - 100 * flat[name], 3) for name in ("top1", "top5") if name in flat
    }
    return {
        **found,
        "model": " + ".join(content["models"]),
        "checkpoint": " + ".join(map(str, content.get("checkpoint_steps", []))),
        "param_count": round(content["param_count"] / 1e6, 4),
        **_preprocessing(predictors),
    }


def _preprocessing(predictors: Sequence[Predictor]) -> dict[str, Any]:
    """Returns timm's columns of the preprocessing; empty where networks differ or it is unknown.

    `crop_pct` is the share of the resized picture's shorter side that the input shows.
    """
    columns = []
    for each in predictors:
        try:
            scaling = view_inputs.scaling(each)
        except errors.UserError:  # A preprocessing of the user.
            return {}
        size = min(scaling.size)
        share = round(size / scaling.shorter_side, 3) if scaling.shorter_side else 1.0
        columns.append(
            {"img_size": size, "crop_pct": share, "interpolation": scaling.interpolation}
        )
    return columns[0] if all(each == columns[0] for each in columns) else {}


def _content(path: Path) -> str:
    try:
        return files.read(path, limits.MAX_JSON_BYTES).decode()
    except FileNotFoundError as error:
        raise errors.UserError(
            f"{path} is a link to a file that does not exist; choose another --csv"
        ) from error
    except UnicodeDecodeError as error:
        raise errors.UserError(f"{path} is no text in UTF-8; choose another --csv") from error


def _cell(value: Any) -> Any:
    return errors.printable(value) if isinstance(value, str) else value
