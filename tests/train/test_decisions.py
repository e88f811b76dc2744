"""Tests of decisions on validations: the plateau schedule and early stopping."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors, plan
from cnn_jax.plan import Plan
from cnn_jax.runs import courses
from cnn_jax.runs.courses import START, Course
from cnn_jax.train import decisions

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/plateau/torch.json").read_text())


def options(early: int = 0, **schedule: Any) -> Plan:
    return plan.read({"optim": {"schedule": schedule}, "eval": {"patience": early}})


def after(ranks: list[float], given: Plan) -> list[Course]:
    """Returns the numbers after each of some validations."""
    found = [START]
    for rank in ranks:
        found.append(decisions.after_validation(found[-1], rank, given))
    return found[1:]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"patience_{case['patience']}")
def test_a_plateau_has_the_rates_of_torch(case: dict[str, Any]) -> None:
    rate = GOLDEN["rate"]
    given = options(
        name="plateau",
        patience=case["patience"],
        decay_factor=case["factor"],
        end_factor=case["least"] / rate,
    )
    ranks = [case["sign"] * value for value in case["values"]]
    ours = [rate * course.rate_factor for course in after(ranks, given)]
    assert len(set(case["rates"])) > 3
    assert ours == pytest.approx(case["rates"], rel=1e-14)


def test_early_stopping_counts_validations_since_the_best() -> None:
    ranks = [0.5, 0.7, 0.7, 0.6, 0.71, 0.71, 0.1, 0.2]
    stopped = [course.stopped for course in after(ranks, options(3))]
    assert stopped == [False] * 7 + [True]


def test_a_lower_rate_does_not_delay_early_stopping() -> None:
    given = options(3, name="plateau", patience=0, decay_factor=0.5)
    found = after([1.0, 0.0, 0.0, 0.0], given)
    assert [course.rate_factor for course in found] == [1.0, 0.5, 0.25, 0.125]
    assert [course.stopped for course in found] == [False, False, False, True]


def test_a_value_that_is_no_number_is_never_better() -> None:
    nan = math.nan
    found = after([nan, 0.5, nan, nan], options(2))
    assert [course.best for course in found] == [None, 0.5, 0.5, 0.5]
    assert [course.stopped for course in found] == [False, False, False, True]


def test_without_plateau_and_patience_nothing_is_counted() -> None:
    assert after([1.0, 0.0, 0.0], options(name="cosine")) == [START] * 3
    assert courses.to_dict(START) == {}


def test_numbers_are_read_as_they_were_stored() -> None:
    course = Course(0.1, 0.5, 2, 7, stopped=True)
    assert courses.parse(json.loads(json.dumps(courses.to_dict(course)))) == course
    assert courses.parse({"step": 3, "pending": {}}) == START


@pytest.mark.parametrize(
    "content",
    [{"rate_factor": "1"}, {"rate_factor": math.nan}, {"stopped": 1}, {"bad_validations": 0.5}],
)
def test_damaged_numbers_are_an_error(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(content))):
        courses.parse(content)


def test_a_plateau_goes_on_in_an_extended_run_and_early_stopping_counts_anew() -> None:
    plateau, other = options(5, name="plateau"), options(5, name="cosine")
    course = Course(0.1, 0.5, 1, 5, stopped=True)
    assert decisions.extended(course, plateau, plateau) == Course(0.1, 0.5, 1, 0)
    assert decisions.extended(course, plateau, other) == START
    assert decisions.extended(course, other, other) == START


@pytest.mark.parametrize(
    "change",
    [{"eval.monitor": "loss"}, {"eval.monitor_mode": "min"}, {"eval.weights": "average"}],
)
def test_a_plateau_of_another_value_compares_with_no_earlier_rank(change: dict[str, str]) -> None:
    old = options(name="plateau")
    new = plan.read({"optim.schedule.name": "plateau", **change})
    assert decisions.extended(Course(0.1, 0.5, 1, 5), old, new) == Course(0.1)


def test_a_plateau_never_raises_the_rate() -> None:
    given = options(name="plateau", patience=0, decay_factor=0.1, end_factor=0.5)
    course = decisions.after_validation(Course(0.1, best=1.0), 0.0, given)
    assert course.rate_factor == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.validation_split": ""}, "needs validations; set data.validation_split"),
        ({"eval.every_epochs": 0.0}, "needs validations during the run; set eval.every_epochs"),
    ],
)
@pytest.mark.parametrize(
    ("decisive", "key"),
    [
        ({"optim.schedule.name": "plateau"}, "optim.schedule.name 'plateau'"),
        ({"eval.patience": 4}, "eval.patience 4"),
    ],
)
def test_decisions_need_validations(
    changes: dict[str, Any], message: str, decisive: dict[str, Any], key: str
) -> None:
    decisions.check(plan.read(changes))
    decisions.check(plan.read(decisive))
    with pytest.raises(errors.UserError, match=f"{key} {message}"):
        decisions.check(plan.read({**changes, **decisive}))


def test_a_plateau_needs_an_optimizer_that_takes_the_rate() -> None:
    given = plan.read({"optim.schedule.name": "plateau", "optim.name": "optax:adam"})
    with pytest.raises(errors.UserError, match="'optax:adam', which computes its own rates"):
        decisions.check(given)
