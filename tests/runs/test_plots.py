"""Tests of plots: names that a font or a formula cannot show, and plots that cannot be drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_jax import errors
from cnn_jax.data.sources import idx
from cnn_jax.runs import logs, plots

NAMES = ("$1 to $5", "a_b^c", "\x1b[2J", "x" * 500, "né", "a\nb", "\ud800", "$", "%", "お")
SHOWN = ("$1 to $5", "a_b^c", r"\x1b[2J", f"{'x' * 21}...", "né", r"a\nb", r"\ud800", "$", "%")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn."""
    made, make = [], plots.new_figure

    def keep(*size: float) -> Any:
        made.append(make(*size))
        return made[-1]

    monkeypatch.setattr(plots, "new_figure", keep)
    return made


@pytest.mark.parametrize(
    ("names", "shown"),
    [(NAMES, (*SHOWN, "9")), (idx.CLASS_NAMES["kmnist"], tuple("0123456789"))],
    ids=["hostile", "kmnist"],
)
def test_any_class_names_are_drawn(
    tmp_path: Path, figures: list[Any], names: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    path = tmp_path / "matrix.png"
    plots.confusion(np.eye(10, dtype=int), names, "idx $x^$ お, test", path)  # Warnings are errors.
    axes = figures[0].axes[0]
    assert axes.get_title() == r"idx $x^$ \u304a, test"
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert tuple(label.get_text() for label in labels) == shown
    assert axes.get_window_extent().width > 300  # Long names leave place for the matrix.
    with Image.open(path) as picture:
        assert picture.size == (800, 700)


FAILURES = [
    ValueError("Key backend: 'nonsense'\nis not a valid value"),
    ImportError("no matplotlib"),
    errors.UserError("no space left"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_plot_that_cannot_be_drawn_costs_no_result(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
) -> None:
    def fail(*_: float) -> None:
        raise failure

    monkeypatch.setattr(plots, "new_figure", fail)
    log = logs.RunLog(tmp_path, 0)
    log.write(logs.make_row(1, 0.1, "train", {"loss": 1.0}))
    with caplog.at_level("ERROR"):
        log.close()
    (message,) = caplog.messages
    assert " ".join(str(failure).split()) in message
    assert "\n" not in message
    assert len(logs.read(tmp_path)) == 1
    with pytest.raises(errors.UserError, match=r"no |matrix\.png cannot be drawn: ValueError"):
        plots.confusion(np.eye(2), ("a", "b"), "title", tmp_path / "matrix.png")
    assert not list(tmp_path.glob("*.png"))


def test_a_reliability_plot_has_a_bar_for_each_bin_with_examples(
    tmp_path: Path, figures: list[Any]
) -> None:
    table: list[dict[str, Any]] = [
        {"lower": 0.0, "upper": 0.5, "count": 0, "confidence": None, "accuracy": None},
        {"lower": 0.5, "upper": 1.0, "count": 4, "confidence": 0.9, "accuracy": 0.75},
    ]
    path = tmp_path / "reliability.png"
    plots.reliability({"network": table, "$T$ = 2": table}, "idx, test", path)
    assert [axes.get_title() for axes in figures[0].axes] == ["network", "$T$ = 2"]
    for axes in figures[0].axes:
        bars = [patch for patch in axes.patches if getattr(patch, "get_height", float)()]
        assert [bar.get_bbox().bounds for bar in bars] == [
            pytest.approx((0.5, 0, 0.5, 0.75)),
            pytest.approx((0.5, 0.75, 0.5, 0.15)),
        ]
    with Image.open(path) as picture:
        assert picture.size == (900, 500)
