"""The curves of a run's log."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.report import charts
from cnn_jax.report.page import Section, escape, table
from cnn_jax.runs import logs

_SPLITS = ("train", "validation", "test")
_CHARTS = (
    ("loss", "Loss", "loss [nats]", True),
    ("top1", "Top-1 error", "error", True),
    ("learning_rate", "Learning rate", "learning rate", False),
    ("gradient_norm", "Gradient norm", "norm", True),
    ("images_per_second", "Speed", "images per second", False),
)
_FIRST = ("loss", "top1", "top5")  # in the table of the last lines
_PLACE = ("step", "epoch", "split", "phase")
_OTHER = ("top5", "parameter_norm", "data_wait", "compile_seconds")
_MOST_LINES = 60  # of the table of the last lines
_MOST_CHARTS = 8  # of further metrics


def section(rows: Sequence[logs.Row]) -> Section:
    """Returns the section of the curves, and of the last values of each split.

    Args:
      rows: the lines of the log, at least one.
    """
    drawn = [chart for spec in _CHARTS if (chart := _chart(rows, *spec))]
    known = {name for name, *_ in _CHARTS} | set(_OTHER) | set(_PLACE)
    further = dict.fromkeys(
        name
        for row in rows
        for name, value in row.items()
        if row["split"] in _SPLITS and logs.is_number(value)
    )
    names = [name for name in further if name.removeprefix(logs.AVERAGE) not in known]
    drawn.extend(_chart(rows, name, name, name, False) for name in names[:_MOST_CHARTS])
    body = f'<div class="grid">{"".join(f"<figure>{chart}</figure>" for chart in drawn)}</div>'
    if any(row["split"] == "train" for row in rows):
        body += (
            '<p class="note">Training values are means since the previous line of the log, with '
            "augmentation and dropout, of parameters that still change.</p>"
        )
    if (phases := [row["phase"] for row in rows if "phase" in row]) and max(phases) > 1:
        ends = {row["phase"]: row["epoch"] for row in rows if "phase" in row}
        words = ", ".join(f"phase {number} to epoch {end:g}" for number, end in ends.items())
        body += f'<p class="note">{escape(words)}.</p>'
    return Section("Curves", body + _last(rows))


def _chart(
    rows: Sequence[Mapping[str, Any]], name: str, title: str, label: str, log_y: bool
) -> str:
    """Returns the chart of a metric over epochs; empty if the log has none."""
    series = []
    for split in _SPLITS:
        for prefix in ("", logs.AVERAGE):
            points = [
                (row["epoch"], 1 - row[prefix + name] if name == "top1" else row[prefix + name])
                for row in rows
                if row["split"] == split and logs.is_number(row.get(prefix + name))
            ]
            if points:
                words = f"{split}, {prefix[:-1]}" if prefix else split
                series.append(charts.Series(words, *map(list, zip(*points, strict=True))))
    if not series:
        return ""
    values = [value for one in series for value in one.y]
    positive = any(value > 0 for value in values)
    return charts.lines(
        series, title=title, x_label="epoch", y_label=label, log_y=log_y and positive
    )


def _last(rows: Sequence[logs.Row]) -> str:
    """Returns the table of the last line of each split."""
    found = {row["split"]: row for row in rows if row["split"] in _SPLITS}
    splits = [split for split in _SPLITS if split in found]
    if not splits:
        return ""
    names = dict.fromkeys(name for split in splits for name in found[split] if name not in _PLACE)
    order = sorted(names, key=lambda name: name.removeprefix(logs.AVERAGE) not in _FIRST)
    lines = [
        [name, *(found[split].get(name) for split in splits)]
        for name in ("step", *order[:_MOST_LINES])
    ]
    return table(["", *splits], lines, sortable=False, caption="Last line of each split in the log")
