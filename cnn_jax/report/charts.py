"""Charts as SVG in the text of a page, without JavaScript and without a network.

The colours are the page's custom properties (`--ink`, `--muted`, `--line`, `--series-0` to
`--series-7`), so that a chart is light or dark with its page. Dashes distinguish curves without
colour. The attributes `data-x` and `data-y` of a chart state the maps of its axes: the values at
both ends, and their coordinates.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import errors
from cnn_jax.report import axes
from cnn_jax.report.axes import Axis

_WIDTH = 420  # of the chart in its own units; a phone shows about 360 pixels
_TOP, _HEIGHT, _RIGHT = 50, 200, 14  # of the area of the curves, without and with margins
_FONT, _LETTER = 12, 6.7  # height and mean width of a letter
_COLUMNS = 2 * _WIDTH  # of which each keeps at most four points of a curve
_MOST_MARKED = 40  # points of a curve that has a mark, with its values, on each
_LONGEST_NAME = 54  # letters in a legend
_COLOURS = 8
_DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "12 4", "5 2 1.5 2 1.5 2", "1.5 4", "14 3 4 3")


class Series(NamedTuple):
    """Curve of a chart.

    Attributes:
      name: its name in the legend.
      x: `[N]` numbers; in ascending order a long curve is thinned.
      y: `[N]` numbers; NaN and infinity break the curve.
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray


def lines(
    series: Sequence[Series], *, title: str, x_label: str, y_label: str, log_y: bool = False
) -> str:
    """Returns a chart of curves, as an `<svg>` element.

    Of long curves, each column of the chart keeps the first, the lowest, the highest and the last
    point. The number of points that a page holds is then limited, and no peak is lost.

    Args:
      series: the curves; one without points is only in the legend.
      title: the heading of the chart.
      x_label: the quantity along the chart, with its unit.
      y_label: the quantity upwards, with its unit.
      log_y: True for a logarithmic axis upwards; numbers that are not positive break the curve.
    """
    curves = [_points(one, log_y) for one in series]
    x, y = (np.concatenate([np.zeros(0), *(c[i] for c in curves)]) for i in (0, 1))
    bottom = _TOP + _HEIGHT
    upward = axes.make(y, bottom, _TOP, is_log=log_y, is_round=True)
    along = axes.make(x, _margin(upward), _WIDTH - _RIGHT, most=5)
    names = [one.name for one in series]
    drawn = [
        _curve(name, index, points, along, upward)
        for index, (name, points) in enumerate(zip(names, curves, strict=True))
    ]
    samples = [_sample(_style(index)) for index in range(len(names))]
    return _frame(title, (x_label, y_label), along, upward, drawn, names, samples)


def reliability(rows: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """Returns a reliability diagram (Guo et al. 2017, figure 1), as an `<svg>` element.

    A bar has the accuracy of a bin. The outlined part of it is the gap to the mean confidence.

    Args:
      rows: the rows of `evaluators.calibration.Bins`, as in an evaluation's JSON file.
      title: the heading of the chart.
    """
    limits = np.array([0.0, 1.0])
    upward = axes.make(limits, _TOP + _HEIGHT, _TOP)
    along = axes.make(limits, _margin(upward), _WIDTH - _RIGHT)
    examples = sum(row["count"] for row in rows)
    filled = [row for row in rows if row["count"]]
    bar = "fill:var(--series-0);stroke:var(--paper)"
    gap = "fill:var(--series-1);fill-opacity:.25;stroke:var(--series-1);stroke-dasharray:3 2"
    share = "fill:none;stroke:var(--ink);stroke-dasharray:1.5 2.5"
    diagonal = "fill:none;stroke:var(--muted);stroke-dasharray:7 3"
    drawn = []
    for row in filled:
        words = (
            f"confidence {row['lower']:.3f} to {row['upper']:.3f}: accuracy {row['accuracy']:.3f}, "
            f"mean confidence {row['confidence']:.3f}, {row['count']:,} examples"
        )
        place = (along, upward, row["lower"], row["upper"])
        boxes = (
            _box(*place, 0.0, row["accuracy"], bar, "accuracy"),
            _box(*place, row["accuracy"], row["confidence"], gap, "gap"),
        )
        drawn.append(f"<g><title>{_text(words)}</title>{''.join(boxes)}</g>")
    steps = [
        (edge, row["count"] / examples) for row in filled for edge in (row["lower"], row["upper"])
    ]
    for style, points in ((share, steps), (diagonal, [(0.0, 0.0), (1.0, 1.0)])):
        x, y = (np.array([point[i] for point in points]) for i in (0, 1))
        drawn.append(_polyline(along.at(x), upward.at(y), style))
    names = ["accuracy", "gap to confidence", "share of examples", "calibrated"]
    samples = [_swatch(bar), _swatch(gap), _sample(share), _sample(diagonal)]
    return _frame(title, ("confidence", "accuracy"), along, upward, drawn, names, samples)


def _points(one: Series, log_y: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the points of a curve that can be drawn, and the parts that they belong to.

    Returns:
      `[N]` float64 each for x and y, and `[N]` int64, which increases where the curve is broken.
    """
    x, y = (np.asarray(values, np.float64).reshape(-1) for values in (one.x, one.y))
    shown = axes.drawable(x) & axes.drawable(y, log_y)
    return x[shown], y[shown], np.cumsum(~shown)[shown]


def _thinned(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the indices of the points that are kept: at most four of neighbours in a column.

    Args:
      columns: `[N]` int, the column of each point.
      y: `[N]` float.
    """
    starts = np.flatnonzero(np.diff(columns, prepend=columns[0] - 1))
    ends = np.append(starts[1:], len(columns))
    kept: list[int] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if end - start <= 4:
            kept.extend(range(start, end))
        else:
            part = y[start:end]
            extremes = (start + int(part.argmin()), start + int(part.argmax()))
            kept.extend(sorted({start, *extremes, end - 1}))
    return np.array(kept)


def _curve(
    name: str,
    index: int,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    along: Axis,
    upward: Axis,
) -> str:
    """Returns a curve: a line for each unbroken part, marks, and its name for hovering.

    Args:
      name: its name.
      index: its number, which chooses colour and dashes.
      points: see `_points`.
      along: the axis of x.
      upward: the axis of y.
    """
    x, y, parts = points
    words = f"{name}: no values"
    drawn: list[str] = []
    if x.size:
        words = f"{name}: {_number(y[-1])} at {_number(x[-1])}"
        kept = _thinned((along.at(x) * (_COLUMNS / _WIDTH)).astype(np.int64), y)
        x, y, parts = x[kept], y[kept], parts[kept]
        across, down = along.at(x), upward.at(y)
        cuts = np.flatnonzero(np.diff(parts)) + 1
        style = _style(index)
        for part in np.split(np.arange(len(x)), cuts):
            if len(part) > 1:
                drawn.append(_polyline(across[part], down[part], style))
            if len(part) == 1 or len(x) <= _MOST_MARKED:
                drawn.extend(_mark(name, index, x[i], y[i], across[i], down[i]) for i in part)
    return f'<g data-series="{index}"><title>{_text(words)}</title>{"".join(drawn)}</g>'


def _style(index: int) -> str:
    """Returns the style of a curve; 64 curves have different ones."""
    dash = _DASHES[(index + index // _COLOURS) % len(_DASHES)]
    colour = f"fill:none;stroke:var(--series-{index % _COLOURS});stroke-width:1.7"
    return f"{colour};stroke-dasharray:{dash}" if dash else colour


def _polyline(across: np.ndarray, down: np.ndarray, style: str) -> str:
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in zip(across, down, strict=True))
    return f'<polyline points="{points}" style="{style}" />'


def _mark(name: str, index: int, x: float, y: float, across: float, down: float) -> str:
    words = _text(f"{name}: {_number(y)} at {_number(x)}")
    style = f"fill:var(--series-{index % _COLOURS})"
    place = f'cx="{across:.2f}" cy="{down:.2f}" r="2.4"'
    return f'<circle {place} style="{style}"><title>{words}</title></circle>'


def _box(
    along: Axis,
    upward: Axis,
    left: float,
    right: float,
    low: float,
    high: float,
    style: str,
    kind: str,
) -> str:
    x = along.at(np.array([left, right]))
    y = np.sort(upward.at(np.array([low, high])))
    place = f'x="{x[0]:.2f}" y="{y[0]:.2f}" width="{x[1] - x[0]:.2f}" height="{y[1] - y[0]:.2f}"'
    return f'<rect class="{kind}" {place} style="{style}" />'


def _frame(
    title: str,
    labels: tuple[str, str],
    along: Axis,
    upward: Axis,
    drawn: Sequence[str],
    names: Sequence[str],
    samples: Sequence[str],
) -> str:
    """Returns a chart: title, axes, what is drawn, and the legend below.

    Args:
      title: the heading.
      labels: the quantities along the chart and upwards.
      along: the axis of x.
      upward: the axis of y.
      drawn: the elements between the axes.
      names: the entries of the legend.
      samples: the sign of each entry, around the origin.
    """
    bottom = _TOP + _HEIGHT
    shown, entries, depth = _legend(names, samples)
    height = bottom + 40 + depth
    words = _text(f"{title}: {labels[1]} over {labels[0]}")
    maps = " ".join(
        f'data-{name}="{axis.low!r} {axis.high!r} {axis.start:g} {axis.end:g}"'
        for name, axis in (("x", along), ("y", upward))
    )
    scale = ' data-scale="log"' if upward.is_log else ""
    return "".join(
        [
            f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{words}" ',
            f'{maps}{scale} xmlns="http://www.w3.org/2000/svg" font-size="{_FONT}" ',
            'style="width:100%;max-width:520px;height:auto;fill:var(--ink)">',
            f"<title>{_text(title)}</title>",
            f'<text x="4" y="17" font-size="14" font-weight="600">{_text(title)}</text>',
            f'<text x="4" y="37" style="fill:var(--muted)">{_text(labels[1])}</text>',
            *_grid(along, upward),
            *drawn,
            f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 33}" text-anchor="end" ',
            f'style="fill:var(--muted)">{_text(labels[0])}</text>',
            f'<g transform="translate(0 {bottom + 52})">{"".join(entries)}</g>' if shown else "",
            "</svg>",
        ]
    )


def _grid(along: Axis, upward: Axis) -> Iterator[str]:
    """Yields the lines of the axes and the texts at their ticks."""
    line, text = 'style="stroke:var(--line)"', 'style="fill:var(--muted)"'
    left, right, bottom = along.start, along.end, upward.start
    for place, label in zip(upward.at(np.array(upward.ticks)), upward.labels(), strict=True):
        yield f'<line x1="{left:g}" x2="{right:g}" y1="{place:.2f}" y2="{place:.2f}" {line} />'
        where = f'x="{left - 6:g}" y="{place + 4:.2f}" text-anchor="end"'
        yield f'<text class="y-tick" {where} {text}>{label}</text>'
    for place, label in zip(along.at(np.array(along.ticks)), along.labels(), strict=True):
        rows = f'y1="{bottom:g}" y2="{bottom + 4:g}"'
        yield f'<line x1="{place:.2f}" x2="{place:.2f}" {rows} {line} />'
        # Half of a label would not fit beside the right end.
        anchor = "end" if place > right - _RIGHT else "middle"
        middle = place if anchor == "middle" else right + _RIGHT - 2
        where = f'x="{middle:.2f}" y="{bottom + 17:g}" text-anchor="{anchor}"'
        yield f'<text class="x-tick" {where} {text}>{label}</text>'
    yield f'<line x1="{left:g}" x2="{right:g}" y1="{bottom:g}" y2="{bottom:g}" {line} />'


def _legend(names: Sequence[str], samples: Sequence[str]) -> tuple[bool, list[str], int]:
    """Returns whether there is a legend, its entries, and its height; long names have own lines."""
    entries, x, y = [], 4.0, 0
    for name, sample in zip(names, samples, strict=True):
        short = errors.printable(name)
        if len(short) > _LONGEST_NAME:
            short = f"{short[: _LONGEST_NAME - 1]}…"
        width = 44 + _LETTER * len(short)
        if x > 4 and x + width > _WIDTH:
            x, y = 4.0, y + 18
        text = f'<text x="28" y="4"><title>{_text(name)}</title>{html.escape(short)}</text>'
        entries.append(f'<g class="key" transform="translate({x:.1f} {y})">{sample}{text}</g>')
        x += width
    return bool(names), entries, y + 24 if names else 0


def _sample(style: str) -> str:
    return f'<line x1="0" x2="24" y1="0" y2="0" style="{style}" />'


def _swatch(style: str) -> str:
    return f'<rect x="6" y="-6" width="12" height="12" style="{style}" />'


def _margin(upward: Axis) -> float:
    """Returns the coordinate of the left end of a chart: its ticks' texts need the place before."""
    return 12 + round(_LETTER * max(map(len, upward.labels()), default=1))


def _number(value: float) -> str:
    """Returns a number with at most six digits."""
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.6g}"


def _text(text: str) -> str:
    """Returns a text for elements and attributes, with control characters as escape sequences."""
    return html.escape(errors.printable(text))
