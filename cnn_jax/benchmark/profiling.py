"""Where the time of a step goes: a trace of it, and a table by kind of operation."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import jax
from jax.profiler import ProfileData

STEPS = 3
# Kinds that take less than this share of all are one line.
_LEAST_SHARE = 0.01
OTHERS = "others"


def trace(run: Callable[[], object], directory: Path) -> dict[str, float]:
    """Milliseconds of a step by kind of operation, the longest first; threads are added up.

    A kind is XLA's name of an instruction less its number, as `dot`, `ynn_fusion` or the
    operations that a loop fuses. The trace, for TensorBoard or Perfetto, is in `directory`.

    Args:
      run: takes a step and waits for its end.
      directory: a new one.
    """
    with jax.profiler.trace(str(directory)):
        for _ in range(STEPS):
            run()
    [file] = directory.rglob("*.xplane.pb")
    milliseconds: dict[str, float] = defaultdict(float)
    for plane in ProfileData.from_file(str(file)).planes:
        for thread in plane.lines:
            for event in thread.events:
                if "hlo_op" in dict(event.stats):
                    milliseconds[_kind(event.name)] += event.duration_ns / 1e6 / STEPS
    return _without_small(milliseconds)


def _kind(name: str) -> str:
    """An instruction's name without the numbers that tell it from its like.

    >>> _kind("broadcast_add_fusion.12.clone.3")
    'broadcast_add_fusion'
    """
    return re.sub(r"(\.(\d+|clone|remat\d*))+$", "", name)


def _without_small(milliseconds: dict[str, float]) -> dict[str, float]:
    total = sum(milliseconds.values())
    longest_first = sorted(milliseconds.items(), key=lambda item: -item[1])
    large = {kind: time for kind, time in longest_first if time >= _LEAST_SHARE * total}
    return large | {OTHERS: total - sum(large.values())}
