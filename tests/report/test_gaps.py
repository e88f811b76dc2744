"""Avoidable bias, variance and mismatch: the examples of the book, and noise."""

import pytest

from cnn_jax.report import gaps
from cnn_jax.report.gaps import Measurement


def measured(**errors: float) -> dict[str, Measurement]:
    return {name: Measurement(error, 100_000, "") for name, error in errors.items()}


# Ng, Machine Learning Yearning, chapters 20, 22, 23 and 41; errors in percent.
@pytest.mark.parametrize(
    ("errors", "values", "largest"),
    [
        ({"human": 0, "training": 0.01, "validation": 0.11}, (0.01, 0.10), "variance"),
        ({"human": 0, "training": 0.15, "validation": 0.16}, (0.15, 0.01), "avoidable bias"),
        ({"human": 0.14, "training": 0.15, "validation": 0.30}, (0.01, 0.15), "variance"),
        (
            {"human": 0, "training": 0.01, "validation": 0.015, "test": 0.10},
            (0.01, 0.005, 0.085),
            "mismatch",
        ),
        ({"human": 0, "training": 0.10, "validation": 0.11, "test": 0.12}, (0.10, 0.01, 0.01),
         "avoidable bias"),
    ],
)  # fmt: skip
def test_examples_of_the_book(
    errors: dict[str, float], values: tuple[float, ...], largest: str
) -> None:
    found = gaps.make(measured(**errors))
    known = [gap.value for gap in found if gap.value is not None]
    assert known == pytest.approx(values)
    assert [gap.name for gap in found if gap.advice] == [largest]


def test_without_a_human_level_the_bias_is_a_bound() -> None:
    bias = gaps.make(measured(training=0.02))[0]
    assert bias.value == 0.02
    assert "upper bound" in bias.formula


def test_an_unknown_error_leaves_its_gaps_unknown() -> None:
    found = gaps.make(measured(test=0.1, training=0.02))
    assert [gap.value is None for gap in found] == [False, True, True]


def test_a_gap_within_two_standard_errors_is_noise() -> None:
    few = {
        name: Measurement(error, 100, "") for name, error in (("validation", 0.1), ("test", 0.15))
    }
    gap = gaps.make(few)[2]
    # sqrt(0.1 * 0.9 / 100 + 0.15 * 0.85 / 100) = 0.0466
    assert gap.noise == pytest.approx(0.0466, abs=1e-4)
    assert not gap.is_clear
    assert not gap.advice
