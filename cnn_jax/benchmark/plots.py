"""Bar charts of measured speedups."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnn_jax.runtime import files


def speedups(groups: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Draws one bar chart per group, with a bar for each network and opponent.

    Bars start at 1: those to the right mean that this package is faster, those to the left that
    the opponent is faster.

    Args:
      groups: speedups over an opponent, by title of the chart, name of the opponent and name of
        the network.
      path: the PNG file to write.
    """
    # Imported here so that a benchmark without --plot does not load matplotlib.
    from matplotlib.figure import Figure

    most = max(len(cases) for group in groups.values() for cases in group.values())
    figure = Figure(figsize=(6 * len(groups), 1.5 + 0.5 * most), layout="constrained")
    charts = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (title, group) in zip(charts, groups.items(), strict=True):
        height = 0.8 / len(group)
        for index, (opponent, cases) in enumerate(group.items()):
            positions = np.arange(len(cases)) + (index - (len(group) - 1) / 2) * height
            lengths = [speedup - 1 for speedup in cases.values()]
            bars = axes.barh(positions, lengths, height, left=1, label=f"over {opponent}")
            axes.bar_label(bars, [f"{speedup:.2f}" for speedup in cases.values()], padding=3)
            axes.set_yticks(range(len(cases)), list(cases))
        axes.axvline(1, color="black", linewidth=1)
        axes.set(title=title, xlabel="speedup (above 1: cnn_jax is faster)", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.margins(x=0.2)
        axes.invert_yaxis()
    figure.legend(*charts[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    with files.replacing(path, ".png") as temporary:
        figure.savefig(temporary, dpi=100)
