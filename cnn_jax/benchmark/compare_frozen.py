"""Benchmark `frozen`: training steps of a part of the parameters, beside those of all of them."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from cnn_jax import errors
from cnn_jax.benchmark import models, report, timing

FULL, FROZEN = "full", "frozen"
_COLUMNS = (
    *("model", "batch", "dtype", "full ms", "frozen ms", "speedup", "full GFLOP", "frozen GFLOP"),
    *("full MiB", "frozen MiB", "full optimizer MiB", "frozen optimizer MiB"),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Measurements of the two steps of a network, each by `FULL` and `FROZEN`.

    Attributes:
      case: the frozen case.
      timings: the times of a step.
      flops: floating-point operations of a step; see `models.Program`.
      bytes: memory of a step; see `models.Program`.
      optimizer_bytes: size of the optimizer's state.
    """

    case: models.Case
    timings: Mapping[str, timing.Timing]
    flops: Mapping[str, float]
    bytes: Mapping[str, int]
    optimizer_bytes: Mapping[str, int]

    @property
    def speedup(self) -> float:
        """Median time of the full step divided by that of the frozen one."""
        return self.timings[FULL].median / self.timings[FROZEN].median

    def row(self) -> list[str]:
        """Returns the cells of the table row, in the order of `_COLUMNS`."""
        both = (FULL, FROZEN)
        return [
            *(self.case.name, str(self.case.batch_size), self.case.dtype),
            *(f"{1e3 * self.timings[one].median:.1f}" for one in both),
            f"{self.speedup:.2f}",
            *(f"{self.flops[one] / 1e9:.3g}" for one in both),
            *(f"{self.bytes[one] / 2**20:.0f}" for one in both),
            *(f"{self.optimizer_bytes[one] / 2**20:.2f}" for one in both),
        ]


def run(cases: Sequence[models.Case], rounds: int, csv_path: Path | None) -> list[Comparison]:
    """Times the training steps of networks with all and with some parameters; prints a row each.

    Args:
      cases: networks in the mode 'train', with their trained parameters and sizes.
      rounds: number of timed rounds.
      csv_path: a new CSV file for the table, or None.

    Raises:
      errors.UserError: the file exists, or a case is not allowed.
    """
    for case in cases:
        if not case.trainable:
            raise errors.UserError(
                "--trainable is empty, which trains all parameters; give 'head', or patterns of "
                "the trained parameters, separated by commas"
            )
        models.check(case)
    versions, turns = [f"jax {jax.__version__}"], 2 * rounds * len(cases)
    done = []
    with contextlib.closing(report.Table(versions, rounds, _COLUMNS, turns, csv_path)) as table:
        for case in cases:
            done.append(_compare(case, rounds, table))
            table.add(done[-1].row())
    return done


def _compare(case: models.Case, rounds: int, table: report.Table) -> Comparison:
    """Compiles and times the two steps; their parameters are freed on return."""
    cases = {FULL: dataclasses.replace(case, trainable=""), FROZEN: case}
    programs = {name: models.program(one) for name, one in cases.items()}
    steps = {name: one.run for name, one in programs.items()}
    return Comparison(
        case,
        timings=timing.interleaved(steps, rounds, table.advance, models.LONG_SECONDS),
        flops={name: one.flops for name, one in programs.items()},
        bytes={name: one.bytes for name, one in programs.items()},
        optimizer_bytes={name: models.optimizer_bytes(one) for name, one in cases.items()},
    )
