"""Pictures of a run: its curves, and who is taken for whom."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

MAX_NAMED_CLASSES = 40  # beyond that the names of a confusion matrix cannot be read


def curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw losses, accuracies and the learning rate over steps.

    Args:
      rows: the lines of `metrics.jsonl`.
      path: the PNG file.
    """
    figure = Figure(figsize=(15, 4), layout="constrained")
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
    """Draw a confusion matrix.

    Args:
      matrix: `[K, K]` counts, a row for each true class.
      class_names: the name of each class.
      title: above the picture.
      path: the PNG file.
    """
    named = len(class_names) <= MAX_NAMED_CLASSES
    side = 2.5 + 0.45 * min(len(class_names), MAX_NAMED_CLASSES)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
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


def speeds(groups: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Draw how many times as fast as its opponents something is.

    Args:
      groups: for each picture, of each opponent, by what was run.
      path: the PNG file.
    """
    most = max(len(cases) for group in groups.values() for cases in group.values())
    figure = Figure(figsize=(6 * len(groups), 1.5 + 0.5 * most), layout="constrained")
    pictures = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (title, group) in zip(pictures, groups.items(), strict=True):
        height = 0.8 / len(group)
        for index, (opponent, cases) in enumerate(group.items()):
            places = np.arange(len(cases)) + (index - (len(group) - 1) / 2) * height
            lengths = [speed - 1 for speed in cases.values()]
            bars = axes.barh(places, lengths, height, left=1, label=f"against {opponent}")
            axes.bar_label(bars, [f"{speed:.2f}" for speed in cases.values()], padding=3)
            axes.set_yticks(range(len(cases)), list(cases))
        axes.axvline(1, color="black", linewidth=1)
        axes.set(title=title, xlabel="times as fast", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.margins(x=0.2)
        axes.invert_yaxis()
    figure.legend(*pictures[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=100)
