"""The operations of `cnn_jax.ops` against plain XLA and torch, as a table."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import jax

from cnn_jax import errors
from cnn_jax.benchmark import ops, report, timing, torch_ops

_COLUMNS = ("case", "pass", "ours ms", "ours/XLA", "in scan/ours", "torch", "ours/torch")


def run(names: Sequence[str], rounds: int, torch: bool, csv_path: Path | None) -> None:
    """Print a table of the cases called `names`, and write it to `csv_path` too.

    Raises:
      ValueError: a name is unknown, the file exists, or torch is asked for and not installed.
    """
    for name in names:
        if name not in ops.CASES:
            raise errors.unknown("case", name, ops.CASES)
    versions = [f"jax {jax.__version__}", *([torch_ops.version()] if torch else [])]
    lines = [
        (name, what)
        for name in names
        for what in ops.PASSES
        if what != ops.PASSES[1] or not ops.CASES[name].is_pooling
    ]
    turns = len(lines) * (5 if torch else 3) * rounds
    with contextlib.closing(report.Table(versions, rounds, _COLUMNS, turns, csv_path)) as table:
        for name, what in lines:
            table.add(_row(name, what, rounds, torch, table))


def _row(name: str, what: str, rounds: int, torch: bool, table: report.Table) -> list[str]:
    case = ops.CASES[name]
    contenders = ops.contenders(case, what)
    if torch:
        contenders |= torch_ops.contenders(case, what)
    timings = timing.interleaved(contenders, rounds, table.advance)
    seconds = {contender: result.median for contender, result in timings.items()}
    ours = seconds["ours"]
    row = [
        name,
        what,
        f"{1e3 * ours:.1f}",
        f"{ours / seconds['XLA']:.2f}",
        f"{seconds['in scan'] / ops.SCAN_STEPS / ours:.2f}",
    ]
    best = torch_ops.better_format(timings)
    if not best:
        return [*row, "", ""]
    return [*row, best.removeprefix("torch "), f"{ours / seconds[best]:.2f}"]
