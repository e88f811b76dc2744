"""Profiles of a step: a trace on disk, and the time by kind of operation."""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import jax
from jax.profiler import ProfileData

STEPS = 3  # traced steps; times are averages over them
# Kinds with a smaller share of the total time are merged into `OTHERS`.
_LEAST_SHARE = 0.01
OTHERS = "others"


def trace(run: Callable[[], object], directory: Path) -> dict[str, float]:
    """Traces `STEPS` steps and returns the time per step by kind of operation.

    A kind is the name of an XLA instruction without its number, such as `dot`, `ynn_fusion` or
    the name of a fused loop, which lists its operations. The trace can be opened in TensorBoard or
    Perfetto.

    Args:
      run: executes one step and waits for its end.
      directory: a new directory for the trace.

    Returns:
      Milliseconds per step, summed over threads, in descending order; the last item is `OTHERS`.
    """
    with jax.profiler.trace(str(directory)):
        for _ in range(STEPS):
            run()
    [file] = directory.rglob("*.xplane.pb")
    return _merge_small(_milliseconds(file))


def _milliseconds(file: Path) -> dict[str, float]:
    """Returns the time per step by kind of operation, from the file of a trace."""
    milliseconds: dict[str, float] = defaultdict(float)
    with warnings.catch_warnings():
        # At their first use, the types of the trace warn that they have no `__module__` (jaxlib
        # 0.12.0.1 on Python 3.13). They do so inside C++, where a warning that is an error ends the
        # process.
        warnings.simplefilter("ignore")
        for plane in ProfileData.from_file(str(file)).planes:
            for thread in plane.lines:
                for event in thread.events:
                    if "hlo_op" in dict(event.stats):
                        milliseconds[_kind(event.name)] += event.duration_ns / 1e6 / STEPS
    return milliseconds


def _kind(name: str) -> str:
    """Returns the name of an XLA instruction without its numeric suffixes.

    >>> _kind("broadcast_add_fusion.12.clone.3")
    'broadcast_add_fusion'
    """
    return re.sub(r"(\.(\d+|clone|remat\d*))+$", "", name)


def _merge_small(milliseconds: dict[str, float]) -> dict[str, float]:
    """Returns the times in descending order, with kinds below `_LEAST_SHARE` as `OTHERS`."""
    total = sum(milliseconds.values())
    longest_first = sorted(milliseconds.items(), key=lambda item: -item[1])
    large = {kind: time for kind, time in longest_first if time >= _LEAST_SHARE * total}
    return large | {OTHERS: total - sum(large.values())}
