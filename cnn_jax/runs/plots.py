"""Plots of a run: learning curves, confusion matrices and calibration. Imports matplotlib.

A plot that cannot be drawn is a UserError, whatever matplotlib raises, so that it costs no result.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import errors
from cnn_jax.runtime import files

_LONGEST_NAME, _LONGEST_TITLE = 24, 80  # letters; longer names leave no place for the matrix
_LONGEST_REASON = 200  # letters of an error of matplotlib
# The curves: split, marker, prefix of the names in the log.
_SERIES = (
    ("train", "", ""),
    ("validation", ".", ""),
    ("test", "*", ""),
    ("validation", "x", "average/"),
    ("test", "P", "average/"),
)
MAX_NAMED_CLASSES = 40  # beyond that the names of a confusion matrix cannot be read


def curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws losses, accuracies and the learning rate over steps.

    Args:
      rows: the lines of `metrics.jsonl`.
      path: the PNG file.

    Raises:
      UserError: the plot cannot be drawn or written.
    """
    with as_user_errors(path):
        _draw_curves(rows, path)


def _draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure = new_figure(15, 4)
    loss, accuracy, rate = figure.subplots(1, 3)
    for split, marker, prefix in _SERIES:
        for axes, name in ((loss, "loss"), (accuracy, "top1"), (rate, "learning_rate")):
            points = [
                (row["step"], row[prefix + name])
                for row in rows
                if row["split"] == split and isinstance(row.get(prefix + name), int | float)
            ]
            if points:
                label = f"{split}, {prefix.removesuffix('/')}" if prefix else split
                axes.plot(*zip(*points, strict=True), marker=marker, label=label)
    for axes, title in (
        (loss, "loss [nats]"),
        (accuracy, "top-1 accuracy"),
        (rate, "learning rate"),
    ):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    loss.set_yscale("log")
    for axes in (loss, accuracy):
        if axes.lines:
            axes.legend()
    save(figure, path)


def confusion(matrix: np.ndarray, class_names: Sequence[str], title: str, path: Path) -> None:
    """Draws a confusion matrix.

    Args:
      matrix: `[K, K]` counts, a row for each true class.
      class_names: the name of each class.
      title: the title of the plot.
      path: the PNG file.

    Raises:
      UserError: the plot cannot be drawn or written.
    """
    with as_user_errors(path):
        _draw_confusion(matrix, class_names, title, path)


def _draw_confusion(matrix: np.ndarray, class_names: Sequence[str], title: str, path: Path) -> None:
    named = len(class_names) <= MAX_NAMED_CLASSES
    side = 2.5 + 0.45 * min(len(class_names), MAX_NAMED_CLASSES)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    # Names come from files. Without `parse_math`, a name such as '$1 to $5' is text and no formula.
    axes.set_title(drawable(title, title, _LONGEST_TITLE), parse_math=False)
    if named:
        ticks = range(len(class_names))
        names = [
            drawable(name, str(index), _LONGEST_NAME) for index, name in enumerate(class_names)
        ]
        axes.set_xticks(ticks, names, rotation=90, parse_math=False)
        axes.set_yticks(ticks, names, parse_math=False)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = f"{matrix[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    save(figure, path)


def reliability(tables: Mapping[str, Sequence[Mapping[str, Any]]], title: str, path: Path) -> None:
    """Draws accuracy over confidence, with a panel for each table (Guo et al. 2017, figure 1).

    Args:
      tables: the rows of `evaluators.calibration.Bins` by the title of their panel, such as that
        of the network and that with the fitted temperature.
      title: the title of the plot.
      path: the PNG file.

    Raises:
      UserError: the plot cannot be drawn or written.
    """
    with as_user_errors(path):
        _draw_reliability(tables, title, path)


def _draw_reliability(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], title: str, path: Path
) -> None:
    figure = new_figure(4.5 * len(tables), 5)
    figure.suptitle(drawable(title, title, _LONGEST_TITLE), parse_math=False)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (name, rows) in zip(panels, tables.items(), strict=True):
        examples = sum(row["count"] for row in rows)
        for row in rows:
            if not row["count"]:
                continue
            width = row["upper"] - row["lower"]
            place = {"x": row["lower"], "width": width, "align": "edge", "edgecolor": "black"}
            gap = row["confidence"] - row["accuracy"]
            axes.bar(height=row["accuracy"], color="C0", **place)
            axes.bar(height=gap, bottom=row["accuracy"], color="C3", alpha=0.4, **place)
        edges = [*(row["lower"] for row in rows), rows[-1]["upper"]]
        shares = [row["count"] / examples for row in rows]
        axes.stairs(shares, edges, color="black", linestyle=":", label="share of examples")
        axes.plot([0, 1], [0, 1], color="gray", linestyle="--", label="calibrated")
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_title(drawable(name, name, _LONGEST_TITLE), parse_math=False)
        # The bars have no labels: one for each bin would fill the legend.
        patches = axes.bar([0, 0], 0, color=["C0", "C3"], alpha=0.6)
        handles = [*axes.get_legend_handles_labels()[0], *patches]
        names = ["share of examples", "calibrated", "accuracy", "gap to confidence"]
        axes.legend(handles, names, loc="upper left", fontsize=8)
    save(figure, path)


@contextlib.contextmanager
def as_user_errors(path: Path) -> Iterator[None]:
    """Raises a UserError for any error of matplotlib, such as an unknown MPLBACKEND."""
    try:
        yield
    except errors.UserError:
        raise
    except Exception as error:  # Matplotlib has no class of its own.
        line = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
        raise errors.UserError(f"{path} cannot be drawn: {line}") from error


def drawable(text: str, otherwise: str, longest: int) -> str:
    """Returns a text in one short line, or `otherwise` if the font lacks one of its characters.

    Characters that the font lacks, such as those of KMNIST's class names, would be empty boxes.
    """
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    known, shown = font.get_charmap(), errors.printable(text)
    if not all(ord(letter) in known for letter in shown):
        shown = errors.printable(otherwise).encode("ascii", "backslashreplace").decode()
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def save(figure: Any, path: Path) -> None:
    """Writes a figure as a PNG file; a kill leaves the old or the new file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    files.write(path, content.getvalue())


def new_figure(width: float, height: float) -> Any:
    """Returns an empty figure; width and height in inches."""
    from matplotlib.figure import Figure  # It takes half a second to import.

    return Figure(figsize=(width, height), layout="constrained")
