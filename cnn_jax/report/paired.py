"""McNemar's test between runs whose work directories have the outcome of each example."""

import itertools
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cnn_jax import errors, limits
from cnn_jax.evaluators import example_rows, intervals
from cnn_jax.report import page
from cnn_jax.report.page import Cell
from cnn_jax.report.stored import Stored
from cnn_jax.runs import workdir
from cnn_jax.runtime import files

MOST_ALL = 6
"""The number of runs up to which all pairs are tested; of more, each with the first one."""

_SAME = ("data", "split", "examples", "views", "mean", "subset", "left_out", "overridden")
_HEADERS = (
    *("A", "B", "top1 of A", "top1 of B", "A - B", "95 % interval"),
    *("only A right", "only B right", "p"),
)


class Result(NamedTuple):
    """An evaluation with the outcome of each example.

    Attributes:
      path: its JSON file.
      content: the content of this file.
    """

    path: Path
    content: Mapping[str, Any]


def section(runs: Mapping[str, Stored]) -> str:
    """Returns the HTML of the tests between runs, or of the commands that make them possible.

    Args:
      runs: the runs by their name.
    """
    found = {name: _results(run.directory) for name, run in runs.items()}
    questions = dict.fromkeys(key for results in found.values() for key in results)
    parts = []
    for key in questions:
        chosen = {name: results[key] for name, results in found.items() if key in results}
        if len(chosen) > 1:
            parts.append(_tested(chosen))
    lacking = [name for name, results in found.items() if not results]
    if lacking or not parts:
        parts.append(_commands({name: runs[name] for name in lacking or runs}, bool(parts)))
    return "\n".join(parts)


def _results(directory: Path) -> dict[str, Result]:
    """Returns the evaluations of a single network that have rows, by what they measured.

    Of several checkpoints, the best one by validation is taken, else the first name.
    """
    found: dict[str, Result] = {}
    folder = workdir.last_phase(directory)
    paths = sorted(folder.glob("evaluation-*.json"), key=lambda path: (not _is_best(path), path))
    for path in paths:
        if not path.with_suffix(".npz").is_file():
            continue
        try:
            content = files.read_json(path, limits.MAX_STORED_BYTES)
        except (OSError, errors.UserError):
            continue
        models = content.get("models")
        if isinstance(models, list) and len(models) == 1:
            key = json.dumps({name: content.get(name) for name in _SAME}, sort_keys=True)
            found.setdefault(key, Result(path, content))
    return found


def _is_best(path: Path) -> bool:
    return path.stem.endswith("-best")


def _tested(results: Mapping[str, Result]) -> str:
    """Returns the table of the tests between evaluations of the same examples.

    Args:
      results: the evaluations by the name of their run.
    """
    rows, notes, loaded = [], [], {}
    for name, result in results.items():
        try:
            loaded[name] = example_rows.read(result.path)
        except errors.UserError as error:
            notes.append(str(error))
    names = list(loaded)
    pairs = [*itertools.combinations(names, 2)]
    if len(names) > MOST_ALL:
        pairs = pairs[: len(names) - 1]
        notes.append(f"Of {len(names)} runs, each is compared with the first one.")
    for a, b in pairs:
        try:
            order = example_rows.match(loaded[a], loaded[b], str(results[b].path))
        except errors.UserError as error:
            notes.append(f"{a} and {b}: {error}")
            continue
        rows.append(
            _row(a, b, loaded[a], loaded[b], example_rows.compare(loaded[a], loaded[b], order))
        )
    content = next(iter(results.values())).content
    views = f", views {content['views']}" if content.get("views") else ""
    size = len(next(iter(loaded.values())).labels) if loaded else 0
    about = f"{content.get('data')}, {content.get('split')}, {size:,} examples"
    if rows:
        notes.insert(0, _meaning(len(rows)))
    table = page.table(_HEADERS, rows, caption=errors.printable(about + views)) if rows else ""
    return table + "".join(f'<p class="note">{page.escape(note)}</p>' for note in notes)


def _row(
    a: str,
    b: str,
    rows: example_rows.ExampleRows,
    others: example_rows.ExampleRows,
    compared: Mapping[str, Any],
) -> list[object]:
    low, high = compared["top1_difference_interval"]
    difference, p_value = compared["top1_difference"], compared["p_value"]
    return [
        *(a, b, float(rows.right.mean()), float(others.right.mean())),
        Cell(f"{difference:+.4f}", difference),
        f"{low:+.4f} to {high:+.4f}",
        *(compared["only_this"], compared["only_earlier"]),
        Cell(f"{p_value:.3g}", p_value),
    ]


def _meaning(tests: int) -> str:
    words = (
        "McNemar's test counts the examples that only one of the two predicts rightly. p is the "
        "probability of a difference at least this large if both are equally good. Intervals are "
        f"percentiles of {intervals.RESAMPLES:,} bootstrap resamples of the examples. Both measure "
        "the choice of the examples, not that of the seed."
    )
    if tests == 1:
        return words
    return f"{words} Of {tests} tests at 5 %, Bonferroni's limit for p is {0.05 / tests:.2g}."


def _commands(runs: Mapping[str, Stored], others: bool) -> str:
    """Returns the commands that store the outcome of each example.

    Args:
      runs: the runs that need them, by name.
      others: True if other runs were compared.
    """
    shown = [
        f"python -m cnn_jax.evaluate --workdir={shlex.quote(str(run.directory))} --split=test "
        + _flag(run)
        for run in runs.values()
        if run.plan is not None
    ]
    if not shown:
        return '<p class="note">No run can be evaluated: the configs cannot be read.</p>'
    which = "Further runs have" if others else "A paired test needs runs that have"
    lines = page.escape(errors.printable("\n".join(shown), keep_lines=True))
    words = (
        f"{which} no stored outcome of each example"
        if others
        else (f"{which} the outcome of each example on the same split")
    )
    return f"<p>{words}. These commands store it:</p><pre><code>{lines}</code></pre>"


def _flag(run: Stored) -> str:
    """Returns a flag of `evaluate` with which it stores the outcome of each example."""
    sizes = run.description.sizes if run.description is not None else {}
    return "--calibrate" if sizes.get("validation") else "--csv=results.csv"
