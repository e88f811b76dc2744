"""Plots of a run: learning curves and confusion matrices. Imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MAX_NAMED_CLASSES = 40  # beyond that the names of a confusion matrix cannot be read


def curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws losses, accuracies and the learning rate over steps.

    Args:
      rows: the lines of `metrics.jsonl`.
      path: the PNG file.
    """
    figure = _figure(15, 4)
    loss, accuracy, rate = figure.subplots(1, 3)
    for split, marker in (("train", ""), ("validation", "."), ("test", "*")):
        for axes, name in ((loss, "loss"), (accuracy, "top1"), (rate, "learning_rate")):
            points = [
                (row["step"], row[name])
                for row in rows
                if row["split"] == split and row.get(name) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, label=split)
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
    figure.savefig(path, dpi=100)


def confusion(matrix: np.ndarray, class_names: Sequence[str], title: str, path: Path) -> None:
    """Draws a confusion matrix.

    Args:
      matrix: `[K, K]` counts, a row for each true class.
      class_names: the name of each class.
      title: the title of the plot.
      path: the PNG file.
    """
    named = len(class_names) <= MAX_NAMED_CLASSES
    side = 2.5 + 0.45 * min(len(class_names), MAX_NAMED_CLASSES)
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if named:
        ticks = range(len(class_names))
        axes.set_xticks(ticks, class_names, rotation=90)
        axes.set_yticks(ticks, class_names)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = f"{matrix[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.savefig(path, dpi=100)


def _figure(width: float, height: float) -> Any:
    """Returns an empty figure; width and height in inches."""
    from matplotlib.figure import Figure  # It takes half a second to import.

    return Figure(figsize=(width, height), layout="constrained")
