"""Interleaved timing of functions, for machines whose speed drifts within minutes."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

# Extra calls before the first timed call, during which the heap grows to its final size.
_WARM_UPS = 2


@dataclasses.dataclass(frozen=True)
class Timing:
    """Measured times of one function.

    Attributes:
      seconds: duration of one call in each round, in the order of the rounds.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Longest minus shortest duration in seconds."""
        return max(self.seconds) - min(self.seconds)


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    after_each: Callable[[], object],
    long_seconds: float = 1.0,
) -> dict[str, Timing]:
    """Times functions alternately, so that a change of the machine's speed affects all of them.

    In each round, each function is called twice and only the second call is timed. The first call
    absorbs the effects of the previous function: cold caches, and threads of another library that
    still spin while they wait for work. The first round has further untimed calls, in which
    functions compile and the heap grows.

    Args:
      contenders: functions by name; each returns when its work is done.
      rounds: number of timed calls per function.
      after_each: called after each function in each round, for a progress bar.
      long_seconds: a function whose second call takes at least this long is timed only once.

    Returns:
      The times by name.
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
    """Returns the duration of one call in seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
