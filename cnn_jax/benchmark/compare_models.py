"""Whole networks against plain XLA and torch: a table, its geometric means, a plot, profiles."""

import contextlib
import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax

from cnn_jax import errors
from cnn_jax.benchmark import models, profiling, report, timing, torch_models, torch_ops
from cnn_jax.runs import plots

OPPONENTS = ("torch", "xla")
# A contender whose step takes longer, such as plain XLA's with many groups, is timed once.
_LONG_SECONDS = 20.0

_COLUMNS = (
    *("model", "batch", "mode", "dtype", "images/s", "step ms", "spread ms", "compile s"),
    *("cached s", "memory MiB", "GFLOP/s", "of matmul", "torch", "times torch", "times XLA"),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was measured of a case.

    Attributes:
      case: the case.
      cold_seconds: for compiling ours from nothing.
      cached_seconds: the same with the compilation cache.
      bytes: what ours needs at a time.
      timings: of each contender: `ours`, `matmul`, and of the opponents `XLA`, `torch contiguous`
        and `torch channels_last`.
      profile: milliseconds by kind of operation, if it was asked for.
    """

    case: models.Case
    cold_seconds: float
    cached_seconds: float
    bytes: int
    timings: Mapping[str, timing.Timing]
    profile: Mapping[str, float]

    @property
    def torch(self) -> str:
        """The faster of torch's memory formats; empty without torch."""
        return torch_ops.better_format(self.timings)

    @property
    def speeds(self) -> dict[str, float]:
        """How many times as fast as each opponent ours is."""
        ours = self.timings["ours"].median
        opponents = {"torch": self.torch, "XLA": "XLA"}
        return {
            opponent: self.timings[contender].median / ours
            for opponent, contender in opponents.items()
            if contender in self.timings
        }

    def row(self) -> list[str]:
        """The case's line of the table."""
        case, ours = self.case, self.timings["ours"]
        rate = case.operations() / ours.median
        matmul = models.MATMUL_OPERATIONS / self.timings["matmul"].median
        speeds = {opponent: f"{speed:.2f}" for opponent, speed in self.speeds.items()}
        return [
            *(case.name, str(case.batch_size), case.mode, case.dtype),
            f"{case.batch_size / ours.median:.1f}",
            f"{1e3 * ours.median:.1f}",
            f"{1e3 * ours.spread:.1f}",
            f"{self.cold_seconds:.1f}",
            f"{self.cached_seconds:.1f}",
            f"{self.bytes / 2**20:.0f}",
            f"{rate / 1e9:.0f}",
            f"{rate / matmul:.0%}",
            self.torch.removeprefix("torch "),
            speeds.get("torch", ""),
            speeds.get("XLA", ""),
        ]


def run(
    cases: Sequence[models.Case],
    rounds: int,
    against: Sequence[str],
    csv_path: Path | None,
    plot_path: Path | None,
    profile_directory: Path | None,
) -> None:
    """Print a table of the cases and the geometric means of each mode and dtype.

    Args:
      cases: what to run.
      rounds: how often each contender is timed.
      against: some of `OPPONENTS`.
      csv_path: a new file for the table.
      plot_path: a new file for a plot of the speeds over those of the opponents.
      profile_directory: a new directory for traces of ours, with a table of each.

    Raises:
      ValueError: a file or the directory exists, or torch is asked for and is not installed or
        has no such network, or a plot without opponents.
    """
    for path in (plot_path, profile_directory):
        if path is not None and path.exists():
            raise errors.UserError(f"{path} exists; it is not overwritten")
    if plot_path is not None and not against:
        raise errors.UserError(f"a plot needs opponents: some of {', '.join(OPPONENTS)}")
    versions = _check(cases, against)
    contenders = 2 + ("xla" in against) + 2 * ("torch" in against)
    done = []
    turns = len(cases) * contenders * rounds
    with contextlib.closing(report.Table(versions, rounds, _COLUMNS, turns, csv_path)) as table:
        for case in cases:
            done.append(_compare(case, rounds, against, table, profile_directory))
            table.add(done[-1].row())
    speeds = _speeds(done)
    print("", *_means(speeds), sep="\n")
    if profile_directory is not None:
        for comparison in done:
            print(*_profile(comparison, profile_directory), sep="\n")
    if plot_path is not None:
        plots.speeds(speeds, plot_path)


def _check(cases: Sequence[models.Case], against: Sequence[str]) -> list[str]:
    """The versions of what will run, once it is known that it can."""
    for opponent in against:
        if opponent not in OPPONENTS:
            raise errors.unknown("opponent", opponent, OPPONENTS)
    for case in cases:
        models.check(case)
    versions = [f"jax {jax.__version__}"]
    if "torch" in against:
        versions.append(torch_models.version())
        for case in cases:
            torch_models.check(case)
    return versions


def _compare(
    case: models.Case,
    rounds: int,
    against: Sequence[str],
    table: report.Table,
    profile_directory: Path | None,
) -> Comparison:
    """Only figures are kept: programs hold parameters."""
    cold, cached = models.compiled_twice(case)
    contenders = {"ours": cached.run, "matmul": models.matmul(case.dtype)}
    if "xla" in against:
        contenders["XLA"] = models.program(case, plain=True).run
    if "torch" in against:
        contenders |= torch_models.contenders(case)
    timings = timing.interleaved(contenders, rounds, table.advance, _LONG_SECONDS)
    profile = {}
    if profile_directory is not None:
        profile = profiling.trace(cached.run, profile_directory / _trace_name(case))
    return Comparison(case, cold.seconds, cached.seconds, cold.bytes, timings, profile)


def _trace_name(case: models.Case) -> str:
    return f"{case.label}-{case.mode}-{case.dtype}"


def _speeds(done: Sequence[Comparison]) -> dict[str, dict[str, dict[str, float]]]:
    """How many times as fast ours is, by mode and dtype, opponent and network."""
    speeds: dict[str, dict[str, dict[str, float]]] = {}
    for comparison in done:
        case = comparison.case
        group = speeds.setdefault(f"{case.mode}, {case.dtype}", {})
        for opponent, speed in comparison.speeds.items():
            group.setdefault(opponent, {})[case.label] = speed
    return speeds


def _means(speeds: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    for group, opponents in speeds.items():
        for opponent, networks in opponents.items():
            mean = statistics.geometric_mean(networks.values())
            yield f"{group}: {mean:.2f} times as fast as {opponent}, geometric mean"


def _profile(comparison: Comparison, directory: Path) -> Iterator[str]:
    name, total = _trace_name(comparison.case), sum(comparison.profile.values())
    yield f"\n{name}, all threads, traced in {directory / name}\n"
    yield report.line(["kind", "ms", "share"])
    yield report.line(["---"] * 3)
    for kind, time in comparison.profile.items():
        yield report.line([kind, f"{time:.1f}", f"{time / total:.0%}"])
