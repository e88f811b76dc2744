"""The figures of an evaluation: scores, classes, calibration, and the gaps between splits."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.report import charts
from cnn_jax.report.gaps import SIGNIFICANT, Gap, Measurement
from cnn_jax.report.page import Cell, Section, escape, number, short, table

TITLES: Mapping[str, str] = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "loss": "loss",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "param_count": "parameters",
    "examples": "examples",
}
"""Names of the figures, by their key in the evaluation's JSON file."""

MOST_CLASSES = 1000
"""Classes in the table; of more, the worst ones are shown."""

_PERCENT = ("top1", "top5")
_OF_CLASSES = ("precision", "recall", "f1")


def figures(content: Mapping[str, Any]) -> str:
    """Returns the figures of an evaluation, with their intervals.

    Args:
      content: the content of its .json file.
    """
    boxes = []
    intervals = content.get("intervals", {})
    for key, title in TITLES.items():
        if not isinstance(content.get(key), int | float):
            continue
        value = content[key]
        ends = intervals.get(key)
        small = f"<small>{_value(key, ends[0])} to {_value(key, ends[1])}</small>" if ends else ""
        boxes.append(
            f'<div><dt>{title}</dt><dd data-key="{key}" data-value="{value!r}">'
            f"{_value(key, value)}{small}</dd></div>"
        )
    words = []
    if "level" in intervals:
        words.append(
            f"Intervals: {intervals['level']:.0%}, {intervals['resamples']:,} bootstrap resamples "
            "of the examples."
        )
    note = f'<p class="note">{" ".join(words)}</p>' if words else ""
    return f'<dl class="figures">{"".join(boxes)}</dl>{note}'


def _value(key: str, value: float) -> str:
    return f"{100 * value:.2f} %" if key in _PERCENT else number(value)


def classes(content: Mapping[str, Any]) -> Section | None:
    """Returns the section of the figures of each class; None if they are not stored.

    Args:
      content: the content of the evaluation's .json file.
    """
    per_class = content.get("per_class")
    if per_class:
        worst = sorted(per_class.items(), key=lambda item: _rank(item[1].get("f1")))[:MOST_CLASSES]
        kept = {name for name, _ in worst}
        rows = [
            [short(name), *(_share(entry.get(key)) for key in _OF_CLASSES), entry["examples"]]
            for name, entry in per_class.items()
            if name in kept
        ]
        headers = ["class", "precision", "recall", "F1", "examples"]
    elif content.get("per_class_accuracy"):
        per_class = content["per_class_accuracy"]
        worst = sorted(per_class.items(), key=lambda item: _rank(item[1]))[:MOST_CLASSES]
        rows = [[short(name), _share(value)] for name, value in worst]
        headers = ["class", "recall (accuracy)"]
    else:
        return None
    note = ""
    if len(per_class) > len(rows):
        note = (
            f'<p class="note">The {len(rows):,} worst classes of {len(per_class):,} are shown; '
            "the evaluation's JSON file has all.</p>"
        )
    return Section("Classes", note + table(headers, rows))


def _rank(value: float | None) -> float:
    return 2.0 if value is None else value


def calibration(content: Mapping[str, Any]) -> Section | None:
    """Returns the section of the calibration; None if the evaluation has none.

    Args:
      content: the content of the evaluation's .json file.
    """
    found = content.get("calibration")
    if not found:
        return None
    temperature = found["temperature"]
    rows = [
        ["calibration error (ECE)", content.get("ece"), found["calibrated_ece"]],
        ["negative log-likelihood", content.get("nll"), found["calibrated_nll"]],
        ["Brier score", content.get("brier"), found["calibrated_brier"]],
    ]
    limit = " (a limit: the fit found no minimum)" if found.get("is_limit") else ""
    kind = "overconfident" if temperature > 1 else "underconfident"
    words = (
        f"The temperature is <b data-key='temperature' data-value='{temperature!r}'>"
        f"{number(temperature)}</b>{limit}, fitted on {found['fit_examples']:,} examples of "
        f"{escape(found['fit_split'])}. The network is {kind}: dividing its logits by the "
        "temperature gives the values on the right (Guo et al. 2017)."
    )
    drawn = [
        f"<figure>{charts.reliability(found[key], title=title)}</figure>"
        for key, title in (
            ("bins", "As trained"),
            ("calibrated_bins", f"At temperature {number(temperature)}"),
        )
    ]
    return Section(
        "Calibration",
        f'<p>{words}</p><div class="grid">{"".join(drawn)}</div>'
        + table(["", "as trained", "with temperature"], rows, sortable=False),
    )


def gap_table(measured: Mapping[str, Measurement], gaps: Sequence[Gap]) -> Section:
    """Returns the section of the errors of each split, and what their gaps suggest.

    Args:
      measured: the errors.
      gaps: the result of `gaps.make`.
    """
    order = ("human", "training", "validation", "test")
    rows = [
        [
            f"{name}-level" if name == "human" else name,
            _percent(measured[name].error),
            None if name == "human" else _percent(2 * measured[name].standard_error),
            measured[name].origin,
        ]
        for name in order
        if name in measured
    ]
    lines = [
        [gap.name, gap.formula, None if gap.value is None else _percent(gap.value), _verdict(gap)]
        for gap in gaps
    ]
    human = (
        ""
        if "human" in measured
        else (
            '<p class="note">With --human_error, the error of people on the same task, the '
            "avoidable bias is known.</p>"
        )
    )
    advice = "".join(
        f"<p><b>Largest gap: {escape(gap.name)}.</b> {escape(gap.advice)}</p>"
        for gap in gaps
        if gap.advice
    )
    return Section(
        "Gaps",
        table(
            ["error", "top-1 error", "\N{PLUS-MINUS SIGN} (2 standard errors)", "from"],
            rows,
            sortable=False,
        )
        + table(["gap", "difference", "value", "verdict"], lines, sortable=False)
        + advice
        + human
        + '<p class="note">Definitions: Ng, Machine Learning Yearning (2018). The validation split '
        "is taken to be of the training distribution.</p>",
    )


def _verdict(gap: Gap) -> str:
    if gap.value is None:
        return "an error is unknown"
    if gap.is_clear:
        return "clear"
    return "none" if gap.value < -SIGNIFICANT * gap.noise else "within noise"


def _share(value: float | None) -> Cell | None:
    return None if value is None else Cell(f"{value:.4f}", value)


def _percent(value: float) -> Cell:
    return Cell(f"{100 * value:.2f} %", value)
