"""Tests of bootstrap intervals and McNemar's test, against normal and exact distributions."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from cnn_jax import errors
from cnn_jax.evaluators import calibration, intervals

NORMAL_95 = 1.959964


def test_the_interval_of_a_share_is_that_of_the_normal_distribution() -> None:
    size, share = 5000, 0.8
    error = math.sqrt(share * (1 - share) / size)
    low, high = intervals.bootstrap(np.arange(size) < share * size, seed=0, resamples=10_000)
    assert low == pytest.approx(share - NORMAL_95 * error, abs=0.1 * error)
    assert high == pytest.approx(share + NORMAL_95 * error, abs=0.1 * error)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).exponential(size=2000)
    error = values.std() / math.sqrt(len(values))
    for level, width in ((0.5, 0.67449), (0.99, 2.575829)):
        low, high = intervals.bootstrap(values, seed=1, resamples=10_000, level=level)
        assert low == pytest.approx(values.mean() - width * error, abs=0.15 * error)
        assert high == pytest.approx(values.mean() + width * error, abs=0.15 * error)


def test_intervals_equal_scipy() -> None:
    values = np.random.default_rng(0).normal(size=40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    found = intervals.bootstrap(values, seed=3, resamples=20_000)
    assert found == pytest.approx((expected.low, expected.high), abs=0.01)


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    rng, share, covered = np.random.default_rng(0), 0.7, 0
    for seed in range(300):
        low, high = intervals.bootstrap(rng.uniform(size=200) < share, seed=seed, resamples=400)
        covered += low <= share <= high
    assert covered / 300 == pytest.approx(0.95, abs=0.025)  # Two standard errors.


def test_paired_differences_have_narrow_intervals() -> None:
    rng = np.random.default_rng(0)
    right_b = rng.uniform(size=2000) < 0.8
    right_a = right_b | (rng.uniform(size=2000) < 0.05)
    low, high = intervals.bootstrap(right_a * 1.0 - right_b, seed=0)
    assert 0 < low < (right_a.mean() - right_b.mean()) < high < 0.02


def test_equal_seeds_give_equal_intervals_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).normal(size=100)
    confidence, right = np.abs(values) / 4, values > 0
    whole = intervals.bootstrap(values, seed=2)
    error = intervals.calibration_error(confidence, right, seed=2)
    assert whole != intervals.bootstrap(values, seed=3)
    for draws in (1, 300, 12_345):
        monkeypatch.setattr(intervals, "_BLOCK_DRAWS", draws)
        assert intervals.bootstrap(values, seed=2) == whole
        assert intervals.calibration_error(confidence, right, seed=2) == pytest.approx(error)


def test_the_memory_does_not_grow_with_resamples() -> None:
    values = np.random.default_rng(0).uniform(size=20_000)
    tracemalloc.start()
    intervals.bootstrap(values, seed=0, resamples=1000)
    intervals.calibration_error(values, values > 0.5, seed=0, resamples=300)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20  # All draws would take 160 MB.


def test_the_interval_of_the_calibration_error_is_that_of_resampled_errors() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 300)
    right = rng.uniform(size=300) < confidence**2
    resampled = []
    draws = np.random.default_rng(7)
    for _ in range(200):
        rows = draws.integers(0, 300, 300)
        resampled.append(calibration.bins(confidence[rows], right[rows], 10).error)
    found = intervals.calibration_error(confidence, right, seed=7, num_bins=10, resamples=200)
    assert found == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))), rel=1e-12)
    assert found.low < calibration.bins(confidence, right, 10).error < found.high


def pair(only_a: int, only_b: int, both: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Returns outcomes of two classifiers with these numbers of discordant pairs."""
    kinds = np.repeat([0, 1, 2, 3], [both, only_a, only_b, 10])
    order = np.random.default_rng(0).permutation(len(kinds))
    return (kinds <= 1)[order], ((kinds == 0) | (kinds == 2))[order]


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (6, 0), (5, 5), (3, 9), (7, 17)])
def test_few_discordant_pairs_have_the_exact_binomial_probability(only_a: int, only_b: int) -> None:
    pairs = only_a + only_b
    # All outcomes that are no more probable than this one; the distribution is symmetric.
    tail = sum(
        Fraction(math.comb(pairs, number), 2**pairs)
        for number in range(pairs + 1)
        if math.comb(pairs, number) <= math.comb(pairs, only_a)
    )
    found = intervals.mcnemar(*pair(only_a, only_b))
    assert found == pytest.approx((only_a, only_b, float(tail)), rel=1e-12)
    if pairs:
        assert found.p_value == pytest.approx(stats.binomtest(only_a, pairs).pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("only_a", "only_b", "statistic"),
    # R 3's mcnemar.test prints 93.011 for 0 and 95 pairs.
    [(20, 5, 196 / 25), (0, 95, 93.01053), (30, 30, 0.0), (31, 30, 0.0), (150, 86, 63**2 / 236)],
)
def test_many_discordant_pairs_have_that_of_chi_square(
    only_a: int, only_b: int, statistic: float
) -> None:
    found = intervals.mcnemar(*pair(only_a, only_b))
    assert found == pytest.approx((only_a, only_b, stats.chi2.sf(statistic, 1)), rel=1e-5)


def test_both_distributions_agree_where_they_meet() -> None:
    for only_a in range(13):
        exact = stats.binomtest(only_a, 25).pvalue
        assert intervals.mcnemar(*pair(only_a, 25 - only_a)).p_value == pytest.approx(
            exact, abs=0.01
        )


def test_the_order_of_two_classifiers_swaps_the_counts() -> None:
    right_a, right_b = pair(9, 2)
    swapped = intervals.mcnemar(right_b, right_a)
    assert swapped == intervals.Paired(2, 9, intervals.mcnemar(right_a, right_b).p_value)


@pytest.mark.parametrize(
    ("values", "changed", "message"),
    [
        ([], {}, "at least one"),
        ([[1.0]], {}, r"got shape \[1, 1\]"),
        (["a"], {}, "one number for each example"),
        ([1.0, math.nan], {}, r"row 1 \(counted from 0\) is nan"),
        ([1.0], {"resamples": 0}, "resamples must be at least 1, got 0"),
        ([1.0], {"level": 95}, "level must be between 0 and 1, such as 0.95; got 95"),
        ([1.0], {"seed": -1}, "seed must not be negative"),
    ],
)
def test_wrong_input_of_the_bootstrap_is_named(
    values: list[float], changed: dict[str, int], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        intervals.bootstrap(np.array(values), **{"seed": 0, **changed})


@pytest.mark.parametrize(
    ("right_a", "right_b", "message"),
    [
        ([True], [True, False], r"got shapes \[1\] and \[2\]\. Evaluate both on the same split"),
        ([], [], "at least one"),
        ([1, 0], [1, 1], "arrays of bool, got int64"),
    ],
)
def test_wrong_input_of_the_paired_test_is_named(
    right_a: list[bool], right_b: list[bool], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        intervals.mcnemar(np.array(right_a), np.array(right_b))
