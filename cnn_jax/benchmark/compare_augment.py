"""Benchmark `augment`: augmentations of training batches, against torchvision."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from cnn_jax import errors
from cnn_jax.benchmark import augment, report, timing, torch_augment

_COLUMNS = (
    *("augmentation", "ours ms", "torchvision ms", "speedup"),
    *("one draw for the batch ms", "speedup over it"),
)


def run(
    names: Sequence[str],
    batch_size: int,
    size: int,
    rounds: int,
    torch: bool,
    csv_path: Path | None,
) -> None:
    """Times augmentations and prints a row for each.

    Args:
      names: keys of `augment.CASES`.
      batch_size: the number of images.
      size: height and width in pixels.
      rounds: number of timed rounds.
      torch: if True, torchvision is timed too.
      csv_path: a new CSV file for the table, or None.

    Raises:
      errors.UserError: a value is not allowed, the file exists, or torchvision is not installed.
    """
    for name in names:
        if name not in augment.CASES:
            raise errors.unknown("case", name, augment.CASES)
    for flag, value, least in (("batch", batch_size, 2), ("image_size", size, 32)):
        if value < least:
            raise errors.UserError(f"--{flag} must be at least {least}, got {value}")
    versions = [f"jax {jax.__version__}", *([torch_augment.version()] if torch else [])]
    compared = {name: torch and torch_augment.has(name) for name in names}
    turns = rounds * sum(3 if compared[name] else 1 for name in names)
    with contextlib.closing(report.Table(versions, rounds, _COLUMNS, turns, csv_path)) as table:
        for name in names:
            contenders = {"ours": augment.program(name, batch_size, size)}
            if compared[name]:
                contenders |= torch_augment.programs(name, batch_size, size)
            timings = timing.interleaved(contenders, rounds, table.advance)
            table.add([name, *cells(timings)])


def cells(timings: Mapping[str, timing.Timing]) -> list[str]:
    """Returns the cells of a table row after the name: times in milliseconds and speedups."""
    ours = timings["ours"].median
    result = [f"{1e3 * ours:.1f}"]
    for name in ("each image", "whole batch"):
        theirs = timings[name].median if name in timings else None
        result += ["", ""] if theirs is None else [f"{1e3 * theirs:.1f}", f"{theirs / ours:.2f}"]
    return result
