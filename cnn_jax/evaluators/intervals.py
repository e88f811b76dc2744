"""Confidence intervals by bootstrap, and McNemar's paired test between two classifiers.

The resampling is over examples. It measures how much a figure depends on the examples of the test
set, and not on the seed of the training.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cnn_jax import errors
from cnn_jax.evaluators import calibration

RESAMPLES = 2000
LEVEL = 0.95

_BLOCK_DRAWS = 2**20  # drawn examples that are in memory at a time: 8 MB of indices
_EXACT_BELOW = 25  # discordant pairs below which the binomial distribution is used


class Interval(NamedTuple):
    """Confidence interval.

    Attributes:
      low: its lower end.
      high: its upper end.
    """

    low: float
    high: float


class Paired(NamedTuple):
    """Result of McNemar's test.

    Attributes:
      only_a: the number of examples that only the first classifier predicts rightly.
      only_b: the number of examples that only the second classifier predicts rightly.
      p_value: the probability of a difference at least this large, in either direction, if both
        classifiers are equally good.
    """

    only_a: int
    only_b: int
    p_value: float


def bootstrap(
    values: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Returns the percentile bootstrap interval of a mean over examples.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. Equal seeds give equal
    intervals with the same release of NumPy. The difference of two classifiers on the same examples
    has the interval of the difference of their values, such as `right_a * 1.0 - right_b`.

    Args:
      values: `[N]` float or bool, a score of each example, such as `scores.PerExample.nll`.
      seed: of the resampling.
      resamples: the number of resamples; each has N examples.
      level: the probability that the interval covers the true mean.

    Raises:
      UserError: `values` are empty, of another shape or not finite; `resamples` is less than 1;
        `level` is not between 0 and 1; or the seed is negative.

    >>> low, high = bootstrap(np.arange(1000) < 900, seed=0)
    >>> round(low, 2), round(high, 2)
    (0.88, 0.92)
    """
    values = _values(values)
    means = [values[drawn].mean(-1) for drawn in _resamples(len(values), seed, resamples, level)]
    return _percentiles(np.concatenate(means), level)


def calibration_error(
    confidence: np.ndarray,
    right: np.ndarray,
    *,
    seed: int,
    num_bins: int = calibration.BINS,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Returns the percentile bootstrap interval of the expected calibration error.

    The error is a mean of absolute values, which noise makes larger. A resample has more noise than
    the test set, so that the interval of a well calibrated network is too high, and may even lie
    above the error itself. Compare two networks on equally many examples.

    Args:
      confidence: `[N]` float, the probability of each prediction.
      right: `[N]` bool, True for right predictions.
      seed: of the resampling.
      num_bins: the number of bins of equal width.
      resamples: the number of resamples; each has N examples.
      level: the probability that the interval should cover.

    Raises:
      UserError: see `calibration.bins` and `bootstrap`.
    """
    confidence, right = calibration.check(confidence, right)
    places = calibration.bin_indices(confidence, num_bins)
    gaps = right - confidence
    found = []
    for drawn in _resamples(len(gaps), seed, resamples, level):
        # One sum for each resample and bin. A bin's share times its gap is the sum of its gaps / N.
        cells = places[drawn] + num_bins * np.arange(len(drawn))[:, None]
        sums = np.bincount(cells.ravel(), gaps[drawn].ravel(), num_bins * len(drawn))
        found.append(np.abs(sums.reshape(-1, num_bins)).sum(-1) / len(gaps))
    return _percentiles(np.concatenate(found), level)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> Paired:
    """Returns McNemar's test of two classifiers on the same examples.

    McNemar 1947, doi:10.1007/BF02295996. Only discordant pairs count: the examples that one of the
    two predicts rightly. Fewer than 25 of them have the exact binomial probability, others that of
    chi-square with one degree of freedom and Edwards' continuity correction
    (doi:10.1007/BF02289261): the statistic is `max(|a - b| - 1, 0)^2 / (a + b)`. Equal counts have
    probability 1.

    Args:
      right_a: `[N]` bool, True where the first classifier is right.
      right_b: `[N]` bool, True where the second classifier is right.

    Raises:
      UserError: the arrays are empty, of different lengths or not bool.

    >>> mcnemar(np.array([True] * 9 + [False]), np.array([True] * 3 + [False] * 7))
    Paired(only_a=6, only_b=0, p_value=0.03125)
    """
    right_a, right_b = np.asarray(right_a), np.asarray(right_b)
    if right_a.ndim != 1 or right_a.shape != right_b.shape or not right_a.size:
        raise errors.UserError(
            "the paired test needs one value of each classifier for each example, at least one; "
            f"got shapes {list(right_a.shape)} and {list(right_b.shape)}. Evaluate both on the "
            "same split"
        )
    for array in (right_a, right_b):
        if array.dtype != np.bool_:
            raise errors.UserError(
                f"the paired test needs arrays of bool, got {array.dtype}; compare predictions "
                "with labels by =="
            )
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Paired(only_a, only_b, _p_value(only_a, only_b))


def _p_value(only_a: int, only_b: int) -> float:
    """Returns the two-sided probability; see `mcnemar`."""
    pairs = only_a + only_b
    if pairs < _EXACT_BELOW:
        tail = sum(math.comb(pairs, number) for number in range(min(only_a, only_b) + 1))
        return min(2 * tail / 2**pairs, 1.0)
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / pairs
    return math.erfc(math.sqrt(statistic / 2))  # of chi-square with one degree of freedom


def _values(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "biuf":
        raise errors.UserError(
            "the bootstrap needs one number for each example, at least one; got shape "
            f"{list(values.shape)} and dtype {values.dtype}"
        )
    finite = np.isfinite(values)
    if not finite.all():
        row = int(finite.argmin())
        raise errors.UserError(
            f"the bootstrap needs finite values, but row {row} (counted from 0) is {values[row]}; "
            "leave such examples out"
        )
    return values.astype(np.float64)


def _resamples(size: int, seed: int, resamples: int, level: float) -> Iterator[np.ndarray]:
    """Yields indices `[R, size]` of R resamples each, `resamples` in all.

    The draws do not depend on the size of the blocks.
    """
    if resamples < 1:
        raise errors.UserError(f"the number of resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise errors.UserError(f"the level must be between 0 and 1, such as 0.95; got {level}")
    if seed < 0:
        raise errors.UserError(f"the seed must not be negative, got {seed}")
    rng = np.random.default_rng(seed)
    block = max(_BLOCK_DRAWS // size, 1)
    for start in range(0, resamples, block):
        yield rng.integers(0, size, (min(block, resamples - start), size))


def _percentiles(found: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high))
