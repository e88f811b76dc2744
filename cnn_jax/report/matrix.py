"""Confusion matrix of a page, which sorts and zooms, and the most frequent confusions."""

from collections.abc import Sequence

import numpy as np

from cnn_jax.report.page import Cell, Section, escape, short, table

MOST = 100
"""Classes in the matrix; of more, those with the most errors are shown."""

_MOST_PAIRS = 200  # lines of the table of confusions

SCRIPT = """
"use strict";
for (const box of document.querySelectorAll(".confusion")) {
  const table = box.querySelector("table");
  const head = table.tHead.rows[0];
  const rows = Array.from(table.tBodies[0].rows);
  const columns = Array.from(head.cells).slice(1);
  const cells = rows.map((row) => Array.from(row.cells).slice(1));
  const words = box.querySelector("output");
  const zoom = box.querySelector("input");
  const order = box.querySelector("select");
  const names = rows.map((row) => row.cells[0].textContent);
  const errors = rows.map((row) => Number(row.dataset.errors));
  const numbers = rows.map((row) => Number(row.dataset.index));
  const orders = {
    index: (a, b) => numbers[a] - numbers[b],
    errors: (a, b) => errors[b] - errors[a] || numbers[a] - numbers[b],
    name: (a, b) => names[a].localeCompare(names[b], "en", { numeric: true }),
  };
  const arrange = () => {
    const places = rows.map((_, place) => place).sort(orders[order.value]);
    head.append(...places.map((place) => columns[place]));
    for (const place of places) {
      rows[place].append(...places.map((other) => cells[place][other]));
      table.tBodies[0].append(rows[place]);
    }
  };
  const scale = () => {
    table.style.setProperty("--cell", `${zoom.value}px`);
    table.classList.toggle("small", Number(zoom.value) < 22);
  };
  order.addEventListener("change", arrange);
  zoom.addEventListener("input", scale);
  const tell = (event) => {
    const cell = event.target.closest("td");
    if (!cell) return;
    const row = cell.parentElement;
    const place = cells[rows.indexOf(row)].indexOf(cell);
    const count = Number(cell.textContent || 0), total = Number(row.dataset.total);
    const share = total ? ` (${(100 * count / total).toFixed(1)} %)` : "";
    words.textContent =
      `${row.cells[0].textContent}, predicted as ${names[place]}: ${count} of ${total}${share}`;
  };
  table.addEventListener("click", tell);
  table.addEventListener("mouseover", tell);
  scale();
}
""".strip()
"""Script of the controls: order, zoom, and the numbers of a cell."""


def pairs(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the confusion matrix without its zeros, `[M, 3]` int64: class, prediction, count.

    Args:
      labels: `[N]` int, the true classes.
      predicted: `[N]` int, the predicted classes.
      num_classes: the number of classes.
    """
    codes, counts = np.unique(
        np.asarray(labels, np.int64) * num_classes + predicted, return_counts=True
    )
    return np.stack([*np.divmod(codes, num_classes), counts], -1)


def pairs_of_matrix(confusion: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns `pairs` of a confusion matrix `[K, K]`."""
    matrix = np.asarray(confusion, np.int64)
    rows, columns = np.nonzero(matrix)
    return np.stack([rows, columns, matrix[rows, columns]], -1)


def section(counted: np.ndarray, class_names: Sequence[str]) -> Section:
    """Returns the section of the confusion matrix.

    Args:
      counted: the result of `pairs`.
      class_names: the names of the classes, K.
    """
    label, predicted, count = counted.T
    wrong = label != predicted
    size = len(class_names)
    totals = np.bincount(label, count, size).astype(np.int64)
    # Examples of the class that are predicted as others, and others that are predicted as it.
    errors = (
        np.bincount(label[wrong], count[wrong], size)
        + np.bincount(predicted[wrong], count[wrong], size)
    ).astype(np.int64)
    shown = np.sort(np.argsort(-errors, kind="stable")[:MOST])
    note = ""
    if size > MOST:
        kept = np.isin(label, shown) & np.isin(predicted, shown) & wrong
        share = count[kept].sum() / max(count[wrong].sum(), 1)
        note = (
            f'<p class="note">The matrix has the {MOST} classes with the most errors of '
            f"{size:,}. {share:.1%} of all errors are between two of them.</p>"
        )
    places = np.full(size, -1)
    places[shown] = np.arange(len(shown))
    matrix = np.zeros((len(shown), len(shown)), np.int64)
    inside = (places[label] >= 0) & (places[predicted] >= 0)
    matrix[places[label[inside]], places[predicted[inside]]] = count[inside]
    body = note + _matrix(matrix, shown, totals, errors, class_names)
    return Section("Confusion matrix", body + _pairs(counted[wrong], totals, class_names))


def _matrix(
    matrix: np.ndarray,
    shown: np.ndarray,
    totals: np.ndarray,
    errors: np.ndarray,
    class_names: Sequence[str],
) -> str:
    """Returns the matrix with its controls; true classes in rows."""
    names = [escape(short(class_names[index])) for index in shown]
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    lines = []
    for place, index in enumerate(shown.tolist()):
        total = int(totals[index])
        cells = "".join(
            _cell(int(value), total, place == column) for column, value in enumerate(matrix[place])
        )
        lines.append(
            f'<tr data-index="{index}" data-errors="{errors[index]}" data-total="{total}">'
            f'<th scope="row">{names[place]}</th>{cells}</tr>'
        )
    initial = 34 if len(shown) <= 12 else 24 if len(shown) <= 30 else 10
    return f"""<div class="confusion">
<p class="controls"><label>Order <select><option value="index">of the classes</option>
<option value="errors">by errors</option><option value="name">by name</option></select></label>
<label>Zoom <input type="range" min="6" max="48" value="{initial}"></label></p>
<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">
<table><thead><tr><th scope="col">true \\ predicted</th>{head}</tr></thead>
<tbody>
{chr(10).join(lines)}
</tbody></table></div>
<p class="note"><output>Point at a cell, or tap it, for its numbers.</output></p>
</div>"""


def _cell(count: int, total: int, is_right: bool) -> str:
    if not count:
        return "<td></td>"
    # The root makes rare confusions visible.
    strength = (count / total) ** 0.5 if total else 1.0
    kind = ' class="right"' if is_right else ""
    dark = "" if strength < 0.6 else ";color:var(--paper)"
    return f'<td{kind} style="--s:{strength:.2f}{dark}">{count}</td>'


def _percent(count: int, total: int) -> Cell:
    return Cell(f"{100 * count / total:.1f}", 100 * count / total)


def _pairs(wrong: np.ndarray, totals: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns the table of the most frequent confusions."""
    order = np.lexsort((wrong[:, 1], wrong[:, 0], -wrong[:, 2]))[:_MOST_PAIRS]
    rows = [
        [
            *(short(class_names[label]), short(class_names[other])),
            *(count, _percent(count, int(totals[label]))),
        ]
        for label, other, count in wrong[order].tolist()
    ]
    if not rows:
        return "<p>There is no error.</p>"
    caption = "Confusions, the most frequent ones first"
    if len(wrong) > len(rows):
        caption += f" ({len(rows)} of {len(wrong):,})"
    headers = ["true class", "predicted as", "examples", "% of the true class"]
    return table(headers, rows, caption=caption)
