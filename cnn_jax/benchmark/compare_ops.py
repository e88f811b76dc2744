"""Benchmark `ops`: the operations of `cnn_jax.ops` against plain XLA and torch."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from cnn_jax import errors
from cnn_jax.benchmark import ops, report, timing, torch_ops

_COLUMNS = (
    *("case", "pass", "ours ms", "speedup in scan", "torch"),
    *("speedup over torch", "speedup over XLA"),
)


def run(names: Sequence[str], rounds: int, torch: bool, csv_path: Path | None) -> None:
    """Times operations and prints a row for each pass of each operation.

    Args:
      names: keys of `ops.CASES`.
      rounds: number of timed rounds.
      torch: if True, torch is timed too.
      csv_path: a new CSV file for the table, or None.

    Raises:
      errors.UserError: a name is unknown, the file exists, or torch is not installed.
    """
    for name in names:
        if name not in ops.CASES:
            raise errors.unknown("case", name, ops.CASES)
    versions = [f"jax {jax.__version__}", *([torch_ops.version()] if torch else [])]
    selected = [
        (name, pass_name)
        for name in names
        for pass_name in ops.PASSES
        if pass_name != ops.PASSES[1] or not ops.CASES[name].is_pooling
    ]
    turns = len(selected) * (5 if torch else 3) * rounds
    with contextlib.closing(report.Table(versions, rounds, _COLUMNS, turns, csv_path)) as table:
        for name, pass_name in selected:
            table.add(_row(name, pass_name, rounds, torch, table))


def _row(name: str, pass_name: str, rounds: int, torch: bool, table: report.Table) -> list[str]:
    """Times one pass of one operation and returns its table row."""
    case = ops.CASES[name]
    contenders = ops.contenders(case, pass_name)
    if torch:
        contenders |= torch_ops.contenders(case, pass_name)
    timings = timing.interleaved(contenders, rounds, table.advance)
    return [name, pass_name, *cells(timings)]


def cells(timings: Mapping[str, timing.Timing]) -> list[str]:
    """Returns the cells of a table row from `ours ms` on; 'ours' is the program of cnn_jax."""
    seconds = {contender: result.median for contender, result in timings.items()}
    ours, torch = seconds["ours"], torch_ops.faster_format(timings)
    return [
        f"{1e3 * ours:.1f}",
        f"{ours / (seconds['in scan'] / ops.SCAN_STEPS):.2f}",
        torch.removeprefix("torch "),
        f"{seconds[torch] / ours:.2f}" if torch else "",
        f"{seconds['XLA'] / ours:.2f}",
    ]
