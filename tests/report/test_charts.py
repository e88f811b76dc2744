"""Charts are read back from their SVG through the axes that they state."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from numpy.typing import ArrayLike

from cnn_jax.evaluators import calibration
from cnn_jax.report import charts
from cnn_jax.report.charts import Series

SVG = "{http://www.w3.org/2000/svg}"
EXACT = 0.0051  # coordinates have two decimals
NAN = math.nan


def draw(*series: Series, log_y: bool = False) -> ET.Element:
    labels = {"title": "Loss", "x_label": "step", "y_label": "loss [nats]"}
    return ET.fromstring(charts.lines(series, **labels, log_y=log_y))


def axis(svg: ET.Element, name: str) -> tuple[float, float, float, float]:
    low, high, start, end = map(float, svg.attrib[f"data-{name}"].split())
    return low, high, start, end


def coordinates(svg: ET.Element, name: str, values: ArrayLike) -> np.ndarray:
    """Returns the coordinates that the stated map gives values."""
    low, high, start, end = axis(svg, name)
    points = np.array(values)
    if name == "y" and svg.get("data-scale") == "log":
        low, high, points = math.log10(low), math.log10(high), np.log10(points)
    return start + (points - low) / (high - low) * (end - start)


def parts(svg: ET.Element, index: int = 0) -> list[np.ndarray]:
    """Returns the points of each unbroken part of a curve, `[N, 2]`; marks that stand alone too."""
    (group,) = svg.findall(f".//{SVG}g[@data-series='{index}']")
    lines = [
        np.array([pair.split(",") for pair in line.attrib["points"].split()], np.float64)
        for line in group.findall(f"{SVG}polyline")
    ]
    inside = {tuple(point) for line in lines for point in line.tolist()}
    marks = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in group.iter(f"{SVG}circle")]
    return [*lines, *(np.array([mark]) for mark in marks if mark not in inside)]


def value_of(label: str) -> float:
    factor = {"k": 1e3, "M": 1e6}.get(label[-1], 1.0)
    return float(label.rstrip("kM").replace(",", "")) * factor


@pytest.mark.parametrize("log_y", [False, True])
def test_points_lie_where_the_axes_say(log_y: bool) -> None:
    x, y = [3.0, 10.0, 17.5, 800.0], [2.5, 0.003, 1.25, 0.75]
    svg = draw(Series("train", x, y), Series("validation", x[:2], y[2:]), log_y=log_y)
    for index, (across, down) in enumerate([(x, y), (x[:2], y[2:])]):
        (found,) = parts(svg, index)
        np.testing.assert_allclose(found[:, 0], coordinates(svg, "x", across), atol=EXACT)
        np.testing.assert_allclose(found[:, 1], coordinates(svg, "y", down), atol=EXACT)
    low, high, start, end = axis(svg, "y")
    assert low <= 0.003
    assert high >= 2.5
    assert start > end  # upwards


@pytest.mark.parametrize(
    "values",
    [
        (0.0, 1.0),
        (0.1, 0.7),
        (-3.0, 12.0),
        (0.93, 0.9412),
        (0.0, 7704.0),
        (0.0, 1e6),
        (12_345.0, 450_000.0),
        (2e-7, 9e-6),
        (1e12, 5e14),
        (-5e-4, 0.0),
        (3.0, 3.0),
        (0.0, 0.0),
        (-1e300, 1e300),
        (0.0, 5e-324),
    ],
)
def test_ticks_are_round_numbers_at_their_places(values: tuple[float, float]) -> None:
    svg = draw(Series("curve", values, values))
    for name, place in (("x", "x"), ("y", "y")):
        ticks = svg.findall(f".//{SVG}text[@class='{name}-tick']")
        numbers = [value_of(str(tick.text)) for tick in ticks]
        assert 2 <= len(numbers) <= 7
        assert len(set(numbers)) == len(numbers)
        steps = np.diff(numbers)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        assert round(steps[0] / 10.0 ** math.floor(math.log10(steps[0]) + 1e-9), 6) in (1, 2, 5)
        middle = [tick for tick in ticks if tick.attrib["text-anchor"] != "end" or name == "y"]
        shown = [float(tick.attrib[place]) - 4 * (name == "y") for tick in middle]
        expected = coordinates(svg, name, [value_of(str(tick.text)) for tick in middle])
        np.testing.assert_allclose(shown, expected, atol=EXACT)


@pytest.mark.parametrize("values", [(1e-8, 3.0), (0.2, 2.6), (2.0, 2.05), (5.0, 5.0), (1, 1e30)])
def test_ticks_of_a_logarithmic_axis(values: tuple[float, float]) -> None:
    svg = draw(Series("curve", (0, 1), values), log_y=True)
    ticks = svg.findall(f".//{SVG}text[@class='y-tick']")
    numbers = [value_of(str(tick.text)) for tick in ticks]
    assert 2 <= len(numbers) <= 7
    shown = [float(tick.attrib["y"]) - 4 for tick in ticks]
    np.testing.assert_allclose(shown, coordinates(svg, "y", numbers), atol=EXACT)


def test_numbers_that_are_not_finite_break_the_curve() -> None:
    y = [NAN, 1.0, 2.0, math.inf, 3.0, -math.inf, 4.0, 5.0, 1e308, NAN]
    text = charts.lines([Series("a", range(10), y)], title="t", x_label="x", y_label="y")
    svg = ET.fromstring(text)
    found = sorted((part[:, 0].tolist() for part in parts(svg)), key=lambda part: part[0])
    expected = [coordinates(svg, "x", places) for places in ([1, 2], [4], [6, 7])]
    for part, places in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, places, atol=EXACT)
    assert not re.search(r"\bnan\b|\binf", text)
    assert axis(svg, "y")[:2] == (1.0, 5.0)


def test_a_logarithmic_axis_breaks_at_numbers_that_are_not_positive() -> None:
    svg = draw(Series("a", range(5), [1.0, 0.5, 0.0, -1.0, 0.25]), log_y=True)
    assert sorted(len(part) for part in parts(svg)) == [1, 2]


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("y", [[], [2.0], [NAN], [NAN, NAN]])
def test_curves_without_a_line(y: list[float], log_y: bool) -> None:
    svg = draw(Series("few", range(len(y)), y), log_y=log_y)
    assert len(svg.findall(f".//{SVG}circle")) == sum(map(math.isfinite, y))
    assert not svg.findall(f".//{SVG}polyline")
    assert [text.text for text in svg.findall(f".//{SVG}g[@class='key']/{SVG}text/{SVG}title")] == [
        "few"
    ]


def test_a_chart_without_curves() -> None:
    assert draw().get("role") == "img"


def test_names_are_escaped() -> None:
    name = "<script>alert(1)</script> & \"quoted\" 'single' \x1b[2J"
    text = charts.lines([Series(name, [0, 1], [1, 2])], title=name, x_label=name, y_label=name)
    svg = ET.fromstring(text)
    shown = name.replace("\x1b", "\\x1b")
    assert [element.tag for element in svg.iter(f"{SVG}script")] == []
    assert svg.attrib["aria-label"] == f"{shown}: {shown} over {shown}"
    assert svg[0].tag == f"{SVG}title"
    assert svg[0].text == shown
    (key,) = svg.findall(f".//{SVG}g[@class='key']/{SVG}text")
    assert key[0].text == shown


def test_a_long_curve_keeps_the_extremes_of_each_column() -> None:
    size = 1_000_000
    rng = np.random.default_rng(0)
    y = rng.normal(size=size)
    y[123_456], y[654_321] = 40.0, -40.0
    text = charts.lines([Series("a", np.arange(size), y)], title="t", x_label="x", y_label="y")
    assert len(text) < 70_000
    svg = ET.fromstring(text)
    (found,) = parts(svg)
    columns = np.floor(2 * coordinates(svg, "x", np.arange(size)) + 1e-9).astype(int)
    heights = coordinates(svg, "y", y)
    drawn = np.floor(2 * found[:, 0] + 1e-9).astype(int)
    for column in np.unique(columns)[5:-5:50]:
        # Coordinates at an edge are rounded into either column.
        near = np.abs(drawn - column) <= 1
        own = heights[columns == column]
        for extreme in (own.min(), own.max()):
            assert np.abs(found[near, 1] - extreme).min() < 0.01
    for place in (123_456, 654_321):
        expected = [coordinates(svg, "x", [place])[0], heights[place]]
        assert np.abs(found - expected).max(1).min() < EXACT


def test_curves_differ_without_colour_and_take_the_colours_of_the_page() -> None:
    svg = draw(*(Series(f"run {i}", [0, 1], [i, i]) for i in range(20)))
    styles = [
        str(svg.find(f".//{SVG}g[@data-series='{i}']/{SVG}polyline").attrib["style"])  # type: ignore[union-attr]
        for i in range(20)
    ]
    assert len(set(styles)) == 20
    dashes = [style.partition("stroke-dasharray:")[2] for style in styles[:8]]
    assert len(set(dashes)) == 8
    assert all(f"var(--series-{i % 8})" in style for i, style in enumerate(styles))
    samples = svg.findall(f".//{SVG}g[@class='key']/{SVG}line")
    assert [sample.attrib["style"] for sample in samples] == styles


def test_the_legend_stays_inside_the_chart() -> None:
    svg = draw(*(Series("long name " * i, [0], [i]) for i in range(1, 12)))
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    keys = svg.findall(f".//{SVG}g[@class='key']")
    (legend,) = (g for g in svg.findall(f"{SVG}g") if g.find(f"{SVG}g[@class='key']") is not None)
    top = float(legend.attrib["transform"].split()[1].rstrip(")"))
    for key in keys:
        x, y = map(float, key.attrib["transform"][10:-1].split())
        text = key.find(f"{SVG}text/{SVG}title")
        assert text is not None
        assert 0 <= x < width - 40
        assert top + y <= height - 12


def test_a_reliability_diagram_has_the_values_of_its_bins() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 500)
    table = calibration.bins(confidence, rng.uniform(size=500) < confidence**2, 10)
    svg = ET.fromstring(charts.reliability(table.rows(), title="Calibration"))
    filled = table.count > 0
    assert filled.sum() == 7
    bars = svg.findall(f".//{SVG}rect[@class='accuracy']")
    assert len(bars) == filled.sum()
    left = [float(bar.attrib["x"]) for bar in bars]
    right = [float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in bars]
    top = [float(bar.attrib["y"]) for bar in bars]
    bottom = [float(bar.attrib["y"]) + float(bar.attrib["height"]) for bar in bars]
    for name, found, expected in (
        ("x", left, table.lower[filled]),
        ("x", right, table.upper[filled]),
        ("y", top, table.accuracy[filled]),
        ("y", bottom, np.zeros(7)),
    ):
        np.testing.assert_allclose(found, coordinates(svg, name, expected), atol=2 * EXACT)
    gaps = svg.findall(f".//{SVG}rect[@class='gap']")
    heights = np.array([float(gap.attrib["height"]) for gap in gaps])
    unit = float(coordinates(svg, "y", [0.0])[0] - coordinates(svg, "y", [1.0])[0])
    total = (heights / unit * table.count[filled]).sum() / 500
    assert total == pytest.approx(table.error, abs=1e-4)
    titles = [str(title.text) for title in svg.findall(f"{SVG}g/{SVG}title")]
    counts = [int(re.findall(r"([\d,]+) examples", title)[0]) for title in titles]
    assert counts == table.count[filled].tolist()
