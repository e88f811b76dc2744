"""Axes of charts: linear maps from values to coordinates of an SVG, and ticks at round numbers."""

import dataclasses
import itertools
import math

import numpy as np

LARGEST = 1e300
"""Values of a larger magnitude are not drawn; differences of smaller ones are finite."""

_SMALLEST_LOG = 1e-300
_LEAST_SPAN = 1e-9  # of a range of values, relative to the largest magnitude
_WHOLE_DECADES = 2  # from this number of decades on, the ticks of a logarithmic axis are powers


@dataclasses.dataclass(frozen=True)
class Axis:
    """Axis of a chart: a linear map of values, or of their logarithms, to coordinates.

    Attributes:
      low: the value at `start`.
      high: the value at `end`; it is greater than `low`.
      start: the coordinate of `low`.
      end: the coordinate of `high`; less than `start` for an axis that points up.
      is_log: True if the logarithms of the values are mapped.
      ticks: values at round numbers.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: tuple[float, ...]

    def at(self, values: np.ndarray | float) -> np.ndarray:
        """Returns coordinates of values, float64 of the same shape.

        Args:
          values: numbers that the axis can draw; see `drawable`.
        """
        numbers, low, high = np.asarray(values, np.float64), self.low, self.high
        if self.is_log:
            numbers, low, high = np.log10(numbers), math.log10(low), math.log10(high)
        return self.start + (numbers - low) / (high - low) * (self.end - self.start)

    def labels(self) -> list[str]:
        """Returns the text of each tick, such as '0.25', '2,000', '40k' or '1e-05'."""
        return [_label(tick, self.ticks, self.is_log) for tick in self.ticks]


def drawable(values: np.ndarray, is_log: bool = False) -> np.ndarray:
    """Returns True for values that an axis can draw, bool of the same shape.

    NaN, infinity and magnitudes above `LARGEST` cannot be drawn. A logarithmic axis draws positive
    numbers only.

    Args:
      values: float.
      is_log: True for a logarithmic axis.
    """
    finite = np.abs(values) <= LARGEST  # False for NaN.
    return finite & (values >= _SMALLEST_LOG) if is_log else finite


def make(
    values: np.ndarray,
    start: float,
    end: float,
    *,
    is_log: bool = False,
    is_round: bool = False,
    most: int = 6,
) -> Axis:
    """Returns an axis whose range includes `values`.

    Args:
      values: `[N]` float, drawable numbers; without any, the range is 0 to 1, or 1 to 10.
      start: the coordinate of the low end.
      end: the coordinate of the high end.
      is_log: True for a logarithmic axis.
      is_round: True to extend the range to ticks. That of a logarithmic axis stays.
      most: the largest number of ticks; a logarithmic axis of few decades may have more.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if is_log:
        low, high = _log_range(low, high)
        return Axis(low, high, start, end, is_log, _log_ticks(low, high, most))
    low, high = _widened(low, high)
    step = _step(low, high, is_round, most)
    first, last = _multiples(low, high, step, is_round)
    if is_round:
        low, high = first * step, last * step
    return Axis(low, high, start, end, is_log, _ticks(first, last, step))


def _widened(low: float, high: float) -> tuple[float, float]:
    """Returns a range that is wide enough to be divided; equal values are in its middle."""
    largest = max(abs(low), abs(high))
    if largest < 1 / LARGEST:
        return 0.0, 1.0
    if high - low > _LEAST_SPAN * largest:
        return low, high
    return low - largest / 2, high + largest / 2


def _step(low: float, high: float, is_round: bool, most: int) -> float:
    """Returns the smallest step of 1, 2 or 5 times a power of ten with at most `most` ticks.

    Args:
      low: the low end of the range.
      high: the high end of the range.
      is_round: True to count the ticks at both ends of the extended range.
      most: the largest number of ticks.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        first, last = _multiples(low, high, factor * power, is_round)
        if last - first < most:
            return factor * power
    return 50 * power


def _multiples(low: float, high: float, step: float, is_round: bool) -> tuple[int, int]:
    """Returns the first and the last tick in steps; beyond the range if `is_round`."""
    first, last = low / step, high / step  # A tick at an end counts in spite of its rounding.
    if is_round:
        return math.floor(first + 1e-9), math.ceil(last - 1e-9)
    return math.ceil(first - 1e-9), math.floor(last + 1e-9)


def _ticks(first: int, last: int, step: float) -> tuple[float, ...]:
    digits = max(0, 1 - math.floor(math.log10(step)))
    # The rounding removes the last bits of products such as 3 * 0.1.
    return tuple(round(number * step, digits) + 0.0 for number in range(first, last + 1))


def _log_range(low: float, high: float) -> tuple[float, float]:
    if low <= 0:
        return 1.0, 10.0
    if math.log10(high) - math.log10(low) < _LEAST_SPAN:
        return max(low / 2, _SMALLEST_LOG), max(high * 2, 4 * _SMALLEST_LOG)
    return low, high


def _log_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Returns powers of ten, or round numbers between few of them."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= _WHOLE_DECADES:
        every = math.ceil((last - first + 1) / most)
        return tuple(float(f"1e{power}") for power in range(first, last + 1, every))
    fine = [float(f"{digit}e{p}") for p in range(first - 1, last + 1) for digit in (1, 2, 5)]
    inside = tuple(tick for tick in fine if low * 0.999999 <= tick <= high * 1.000001)
    if len(inside) > 1:
        return inside
    step = _step(low, high, False, most)
    return _ticks(*_multiples(low, high, step, False), step)


def _label(tick: float, ticks: tuple[float, ...], is_log: bool) -> str:
    """Returns the text of a tick, as short as its step allows."""
    largest = max(map(abs, ticks))
    if is_log or largest >= 1e10 or 0 < largest < 1e-3:
        return f"{tick:g}"
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=largest)
    divisor, suffix = next(
        (divisor, suffix)
        for divisor, least, suffix in ((1e6, 1e6, "M"), (1e3, 1e4, "k"), (1.0, 0.0, ""))
        if largest >= least and (divisor == 1 or step >= divisor / 10)
    )
    digits = max(0, -math.floor(math.log10(step / divisor) + 1e-9)) if step else 0
    return f"{tick / divisor:,.{digits}f}{suffix if tick else ''}"
