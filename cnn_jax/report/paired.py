"""McNemar's test between runs whose work directories have the outcome of each example."""

import itertools
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cnn_jax import errors
from cnn_jax.evaluators import example_rows, intervals
from cnn_jax.evaluators.example_rows import ExampleRows
from cnn_jax.report import page
from cnn_jax.report.figures import Run
from cnn_jax.report.page import Cell

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


def section(runs: Mapping[str, Run]) -> str:
    """Returns the HTML of the tests between runs, and of commands for runs without outcomes.

    Args:
      runs: the runs by their name.
    """
    found = {name: _results(run) for name, run in runs.items()}
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


def name_cell(name: str) -> Cell:
    """Returns the cell of a run, in one line."""
    return Cell(f'<span style="white-space:nowrap">{page.escape(name)}</span>')


def _results(run: Run) -> dict[str, Result]:
    """Returns the evaluations of a single network that have rows, by what they measured.

    Of several checkpoints, the best one by validation is taken, else the first name.
    """
    found: dict[str, Result] = {}
    for path in sorted(run.files.results, key=lambda path: (not _is_best(path), path)):
        content = run.files.results[path]
        models = content.get("models")
        is_single = isinstance(models, list) and len(models) == 1
        if is_single and path.with_suffix(".npz").is_file():
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
    rows: list[list[object]] = []
    notes: list[str] = []
    loaded: dict[str, ExampleRows] = {}
    for name, result in results.items():
        try:
            loaded[name] = example_rows.read(result.path)
        except errors.UserError as error:
            notes.append(str(error))
    pairs = [*itertools.combinations(loaded, 2)]
    if len(loaded) > MOST_ALL:
        pairs = pairs[: len(loaded) - 1]
        notes.append(f"Of {len(loaded)} runs, each is compared with the first one.")
    for a, b in pairs:
        try:
            rows.append(_row(a, b, loaded[a], loaded[b], str(results[b].path)))
        except errors.UserError as error:
            notes.append(f"{a} and {b}: {error}")
    table = ""
    if rows:
        notes = [
            _checkpoints({name: results[name] for name in loaded}),
            _meaning(len(rows)),
            *notes,
        ]
        content, size = (
            next(iter(results.values())).content,
            len(next(iter(loaded.values())).labels),
        )
        views = f", views {content['views']}" if content.get("views") else ""
        words = f"{content.get('data')}, {content.get('split')}, {size:,} examples{views}"
        table = page.table(_HEADERS, rows, caption=errors.printable(words))
    return table + "".join(f'<p class="note">{page.escape(note)}</p>' for note in notes)


def _row(a: str, b: str, rows: ExampleRows, others: ExampleRows, title: str) -> list[object]:
    """Returns the line of a test.

    Args:
      a: the name of the first run.
      b: the name of the second run.
      rows: the outcomes of the first run.
      others: those of the second run.
      title: the name of the file of `others`, for messages.

    Raises:
      UserError: the examples differ.
    """
    compared = example_rows.compare(rows, others, example_rows.match(rows, others, title))
    low, high = compared["top1_difference_interval"]
    difference, p_value = compared["top1_difference"], compared["p_value"]
    return [
        *(name_cell(a), name_cell(b)),
        *(float(rows.right.mean()), float(others.right.mean())),
        Cell(f"{difference:+.4f}", difference),
        f"{low:+.4f} to {high:+.4f}",
        *(compared["only_this"], compared["only_earlier"]),
        Cell(f"{p_value:.3g}", p_value),
    ]


def _checkpoints(results: Mapping[str, Result]) -> str:
    """Returns the checkpoint of each evaluation; it need not be that of the final figures."""
    steps = {name: result.content.get("checkpoint_steps") for name, result in results.items()}
    words = (
        f"{name} step {each[0]:,}"
        for name, each in steps.items()
        if isinstance(each, list) and len(each) == 1 and type(each[0]) is int
    )
    return f"Checkpoints: {', '.join(words) or 'unknown'}."


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


def _commands(runs: Mapping[str, Run], others: bool) -> str:
    """Returns the commands that store the outcome of each example.

    Args:
      runs: the runs that need them, by name.
      others: True if other runs were compared.
    """
    shown = [_command(run) for run in runs.values() if run.plan is not None]
    if not shown:
        return '<p class="note">No run can be evaluated: the configs cannot be read.</p>'
    reason = (
        "Further runs have no stored outcome of each example."
        if others
        else "A paired test needs the outcome of each example of two runs on the same split."
    )
    lines = page.escape(errors.printable("\n".join(shown), keep_lines=True))
    return f"<p>{reason} These commands store it:</p><pre><code>{lines}</code></pre>"


def _command(run: Run) -> str:
    """Returns the command that evaluates a run and stores the outcome of each example."""
    sizes = run.files.description.sizes if run.files.description is not None else {}
    flag = "--calibrate" if sizes.get("validation") else "--csv=results.csv"
    place = f"--workdir={run.files.directory}"
    return shlex.join(["python", "-m", "cnn_jax.evaluate", place, "--split=test", flag])
