"""Timing functions against each other, fairly, on a machine whose speed changes by the minute."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

# Until the heap has grown to what the contenders need one after the other.
_WARM_UPS = 2


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one contender, a value for each round.

    Attributes:
      seconds: one call each, in the order of the rounds.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """From the shortest to the longest."""
        return max(self.seconds) - min(self.seconds)


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    after_each: Callable[[], object],
    long_seconds: float = 1.0,
) -> dict[str, Timing]:
    """Call all contenders in turn, round after round, each time twice: the second call counts.

    The first call of a turn pays for what the one before left behind: cold caches and, for a
    while, another library's threads waiting for more work. The very first calls, which compile
    and make the heap grow, count for nothing.

    Args:
      contenders: functions that return when their work is done.
      rounds: how many values to take.
      after_each: called after each turn, for a progress bar.
      long_seconds: a contender whose second call takes longer is timed once.
    """
    seconds: dict[str, list[float]] = {}
    for name, call in contenders.items():
        call()
        seconds[name] = [_time(call)]
        if seconds[name][0] < long_seconds:
            for _ in range(_WARM_UPS):
                call()
            seconds[name] = [_time(call)]
        after_each()
    for _ in range(rounds - 1):
        for name, call in contenders.items():
            if seconds[name][0] < long_seconds:
                call()
                seconds[name].append(_time(call))
            after_each()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
