"""Benchmark `models`: whole networks against plain XLA and torch."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax

from cnn_jax import errors
from cnn_jax.benchmark import (
    fresh,
    models,
    plots,
    profiling,
    report,
    timing,
    torch_models,
    torch_ops,
)
from cnn_jax.runtime import malloc

OPPONENTS = ("torch", "xla", "malloc")
_COLUMNS = (
    *("model", "batch", "mode", "dtype", "images/s", "step ms", "spread ms", "compile s"),
    *("cached s", "memory MiB", "GFLOP/s", "of matmul", "torch"),
    *("speedup over torch", "speedup over XLA", "speedup over malloc"),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Measurements of one case; 'ours' is the program of cnn_jax.

    Attributes:
      case: the network, its use and its sizes.
      cold_seconds: time to trace and compile ours with an empty compilation cache.
      cached_seconds: time to trace and compile ours with the compilation cache filled.
      bytes: memory of ours: arguments, results and temporary memory.
      timings: times of `ours` and `matmul`, and of the opponents that were timed: `XLA`,
        `malloc`, `torch contiguous` and `torch channels_last`.
      profile: milliseconds per step by kind of operation; empty without `--profile`.
    """

    case: models.Case
    cold_seconds: float
    cached_seconds: float
    bytes: int
    timings: Mapping[str, timing.Timing]
    profile: Mapping[str, float]

    @property
    def torch(self) -> str:
        """Name of torch's faster timing in `timings`; empty without torch."""
        return torch_ops.faster_format(self.timings)

    @property
    def speedups(self) -> dict[str, float]:
        """Median time of each opponent divided by that of ours; above 1, ours is faster."""
        ours = self.timings["ours"].median
        opponents = {"torch": self.torch, "XLA": "XLA", "malloc": "malloc"}
        return {
            opponent: self.timings[contender].median / ours
            for opponent, contender in opponents.items()
            if contender in self.timings
        }

    def row(self) -> list[str]:
        """Returns the cells of the table row, in the order of `_COLUMNS`."""
        case, ours = self.case, self.timings["ours"]
        rate = case.operations() / ours.median
        matmul = models.MATMUL_OPERATIONS / self.timings["matmul"].median
        speedups = {opponent: f"{speedup:.2f}" for opponent, speedup in self.speedups.items()}
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
            speedups.get("torch", ""),
            speedups.get("XLA", ""),
            speedups.get("malloc", ""),
        ]


def run(
    cases: Sequence[models.Case],
    rounds: int,
    against: Sequence[str],
    csv_path: Path | None,
    plot_path: Path | None,
    profile_directory: Path | None,
) -> None:
    """Times networks; prints a row for each case, then geometric means by mode and dtype.

    Args:
      cases: networks, uses and sizes to time.
      rounds: number of timed rounds.
      against: opponents to time, from `OPPONENTS`.
      csv_path: a new CSV file for the table, or None.
      plot_path: a new PNG file for a plot of the speedups, or None.
      profile_directory: a new directory for traces of ours, or None. A table of the time by kind
        of operation is printed for each trace.

    Raises:
      errors.UserError: an output path exists; a case or an opponent is not allowed; a plot is
        asked for without opponents, or a profile of a plain loop; torch, torchvision or timm is
        not installed or has no such network.
    """
    for path in (plot_path, profile_directory):
        if path is not None and path.exists():
            raise report.exists(path)
    if plot_path is not None and not against:
        raise errors.UserError(f"--plot needs --against with some of {', '.join(OPPONENTS)}")
    if profile_directory is not None and any(case.mode == "loop" for case in cases):
        raise errors.UserError(
            "--profile traces this process, but --mode=loop runs in another; use --mode=train"
        )
    versions = _check(cases, against)
    contenders = 2 + len(set(against)) + ("torch" in against)  # torch has two formats.
    done = []
    turns = len(cases) * contenders * rounds
    with contextlib.closing(report.Table(versions, rounds, _COLUMNS, turns, csv_path)) as table:
        for case in cases:
            done.append(_compare(case, rounds, against, table, profile_directory))
            table.add(done[-1].row())
    speedups = _speedups(done)
    print("", *_mean_lines(speedups), sep="\n")
    if profile_directory is not None:
        for comparison in done:
            print(*_profile_lines(comparison, profile_directory), sep="\n")
    if plot_path is not None:
        plots.speedups(speedups, plot_path)


def _check(cases: Sequence[models.Case], against: Sequence[str]) -> list[str]:
    """Checks that all programs can run and returns the versions of their libraries."""
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
    """Compiles and times one case; its programs and their parameters are freed on return."""
    with contextlib.ExitStack() as stack:
        cold, cached = _ours(case, stack)
        contenders = {"ours": cached.run, "matmul": models.matmul(case.dtype)}
        contenders |= _opponents(case, against, stack)
        timings = timing.interleaved(contenders, rounds, table.advance, models.LONG_SECONDS)
        profile = {}
        if profile_directory is not None:
            profile = profiling.trace(cached.run, profile_directory / _trace_name(case))
        return Comparison(case, cold.seconds, cached.seconds, cold.bytes, timings, profile)


def _ours(case: models.Case, stack: contextlib.ExitStack) -> tuple[models.Program, models.Program]:
    """Returns our program, compiled without and with the compilation cache.

    A plain loop has a process of its own, in which nobody has set the allocator.
    """
    if case.mode == "loop":
        return stack.enter_context(fresh.programs(case, {}))
    return models.compiled_twice(case)


def _opponents(
    case: models.Case, against: Sequence[str], stack: contextlib.ExitStack
) -> dict[str, Callable[[], object]]:
    """Returns the programs of the opponents by the name of their timing."""
    contenders: dict[str, Callable[[], object]] = {}
    if "xla" in against:
        contenders["XLA"] = models.program(case, plain=True).run
    if "malloc" in against:
        _, cached = stack.enter_context(fresh.programs(case, {malloc.SWITCH: "0"}))
        contenders["malloc"] = cached.run
    if "torch" in against:
        contenders |= torch_models.contenders(case)
    return contenders


def _trace_name(case: models.Case) -> str:
    """Returns the name of a case's trace directory."""
    return f"{case.label}-{case.mode}-{case.dtype}"


def _speedups(done: Sequence[Comparison]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the speedups by 'mode, dtype', opponent and network."""
    speedups: dict[str, dict[str, dict[str, float]]] = {}
    for comparison in done:
        case = comparison.case
        group = speedups.setdefault(f"{case.mode}, {case.dtype}", {})
        for opponent, speedup in comparison.speedups.items():
            group.setdefault(opponent, {})[case.label] = speedup
    return speedups


def _mean_lines(speedups: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """Yields a line with the geometric mean for each group and opponent."""
    for group, opponents in speedups.items():
        for opponent, networks in opponents.items():
            mean = statistics.geometric_mean(networks.values())
            yield f"{group}: geometric mean of the speedup over {opponent}: {mean:.2f}"


def _profile_lines(comparison: Comparison, directory: Path) -> Iterator[str]:
    """Yields the lines of a table of the time by kind of operation."""
    name, total = _trace_name(comparison.case), sum(comparison.profile.values())
    yield f"\n{name}: time per step, summed over threads; trace in {directory / name}\n"
    yield report.line(["kind of operation", "ms", "share"])
    yield report.line(["---"] * 3)
    for kind, time in comparison.profile.items():
        yield report.line([kind, f"{time:.1f}", f"{time / total:.0%}"])
