"""Tests of schedules against the rates of torch, timm and Keras, and of where they differ.

`make_schedules.py` wrote the golden values: 40 steps in 10 epochs at a rate of 0.3.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import optim

DATA = Path(__file__).parent / "data"
RATE, STEPS, PER_EPOCH = 0.3, 40, 4
STEP = {"name": "step", "boundary_epochs": (3, 6.5), "decay_factor": 0.2}
WARM = {"warmup_epochs": 2.0, "warmup_factor": 0.01, "warmup_first_step": 0}
FROM_START = {**WARM, "decay_from": "start"}
RESTARTS = {"name": "cosine", "cycle_epochs": 1.5, "cycle_factor": 2.0}
EXPONENTIAL = {"name": "exponential", "decay_epochs": 2.4, "decay_factor": 0.97}

# The arguments of `make_schedule` by library and case.
CASES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "torch": {
        "step": STEP,
        "step after warm-up": {**STEP, **WARM},
        "exponential": {"name": "exponential", "decay_epochs": 0.25, "decay_factor": 0.9},
        "staircase": {
            "name": "exponential",
            "decay_epochs": 1.5,
            "decay_factor": 0.5,
            "staircase": True,
        },
        "cosine with floor": {"name": "cosine", "end_factor": 0.1},
        "restarts": {"name": "cosine", "cycle_epochs": 2.0, "end_factor": 0.1},
        "growing restarts": RESTARTS,
        "polynomial": {"name": "polynomial", "power": 2.0},
        "one_cycle": {"name": "one_cycle", "start_factor": 0.04, "end_factor": 0.04e-4},
        "constant warm-up": {
            "name": "constant",
            "warmup": "constant",
            "warmup_epochs": 2.0,
            "warmup_factor": 0.1,
        },
        "exponential warm-up": {"name": "constant", "warmup": "exponential", **WARM},
        "by epoch": {"name": "cosine", "end_factor": 0.01, "per_epoch": True, **WARM},
        "timm cosine": {"name": "cosine", "end_factor": 0.1, **FROM_START},
        "timm cosine with prefix": {"name": "cosine", "end_factor": 0.1, **WARM},
        "timm growing restarts": {**RESTARTS, "end_factor": 0.1},
        "timm polynomial": {"name": "polynomial", "power": 0.5, "end_factor": 0.1, **FROM_START},
        "timm step by epoch": {**EXPONENTIAL, "staircase": True, "per_epoch": True, **FROM_START},
        # timm's decays come one step early.
        "timm multi-step": {**STEP, "boundary_epochs": (2.75, 6.25)},
    },
    "tensorflow": {
        "exponential": EXPONENTIAL,
        "staircase": {**EXPONENTIAL, "staircase": True},
        "polynomial": {"name": "polynomial", "power": 2.0, "end_factor": 0.1},
        "cosine after warm-up": {"name": "cosine", "end_factor": 0.1, **WARM},
        "growing restarts": {**RESTARTS, "end_factor": 0.1},
        # Keras's decays come one step late.
        "piecewise": {**STEP, "boundary_epochs": (3.25, 6.75)},
    },
}


@functools.cache
def golden(library: str) -> Any:
    return json.loads((DATA / f"schedules-{library}.json").read_text())["cases"]


def rates(options: Mapping[str, Any], count: int = STEPS) -> Any:
    schedule = optim.make_schedule(RATE, total_steps=STEPS, steps_per_epoch=PER_EPOCH, **options)
    return schedule(np.arange(count), np)


@pytest.mark.parametrize(
    ("library", "case"), [(library, case) for library, cases in CASES.items() for case in cases]
)
def test_rates_equal_those_of_the_reference(library: str, case: str) -> None:
    expected = golden(library)[case]
    found = rates(CASES[library][case])
    if len(expected) == STEPS // PER_EPOCH:
        assert (found.reshape(-1, PER_EPOCH) == found[::PER_EPOCH, None]).all()
        found = found[::PER_EPOCH]
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-12, atol=1e-16)


def test_every_schedule_has_a_reference() -> None:
    named = {case["name"] for cases in CASES.values() for case in cases.values()}
    assert named == {*optim.SCHEDULES} - {"plateau"}


def test_the_plateau_is_constant_until_a_run_divides_its_rate() -> None:
    found = rates({"name": "plateau", **WARM})
    np.testing.assert_array_equal(found, rates({"name": "constant", **WARM}))


def test_the_cosine_stays_at_its_end_where_torchs_rises_again() -> None:
    theirs = golden("torch")["cosine"]
    ours = rates({"name": "cosine"}, len(theirs))
    np.testing.assert_allclose(ours[:STEPS], theirs[:STEPS], rtol=1e-12)
    assert (ours[STEPS:] == 0).all()
    assert theirs[-1] > 0.03


def test_a_decay_from_the_start_begins_below_the_rate_after_a_warm_up() -> None:
    found = rates({"name": "cosine", **FROM_START})
    assert found.max() == found[8] == pytest.approx(RATE * 0.5 * (1 + np.cos(np.pi * 0.2)))


@pytest.mark.parametrize("first", [0, 1])
def test_a_warm_up_by_epoch_counts_epochs(first: int) -> None:
    found = rates(
        {"name": "constant", "warmup_epochs": 4, "warmup_first_step": first, "per_epoch": True}
    )
    expected = RATE * np.repeat(np.minimum(np.arange(10) + first, 4) / 4, PER_EPOCH)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@pytest.mark.parametrize("per_epoch", [False, True])
def test_a_warm_up_of_broken_epochs_does_not_exceed_the_rate(per_epoch: bool) -> None:
    found = rates({"name": "constant", "warmup_epochs": 2.5, "per_epoch": per_epoch})
    assert found.max() == RATE
    assert (np.diff(found) >= 0).all()


def test_a_staircase_of_broken_epochs_ends_on_whole_steps() -> None:
    """1.1 epochs of 10 steps are 11.000000000000002 in binary floating point."""
    schedule = optim.make_schedule(
        1.0,
        name="exponential",
        staircase=True,
        decay_epochs=1.1,
        decay_factor=0.5,
        total_steps=60,
        steps_per_epoch=10,
    )
    found = schedule(np.array([10, 11, 21, 22, 54, 55]), np)
    assert found.tolist() == [1.0, 0.5, 0.5, 0.25, 0.5**4, 0.5**5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": "lineer", "warmup_epochs": 1}, "warmup 'lineer'; did you mean 'linear'"),
        ({"warmup": "constant", "warmup_epochs": 1}, "'constant' needs a start above 0; set"),
        ({"warmup_factor": 1.5}, r"optim.schedule.warmup_factor must be in \[0, 1\], got 1.5"),
        ({"decay_from": "end"}, "optim.schedule.decay_from 'end'"),
        ({"end_factor": -0.1}, r"optim.schedule.end_factor must be in \[0, 1\], got -0.1"),
        ({"peak_at": 2.0}, r"optim.schedule.peak_at must be in \[0, 1\], got 2.0"),
        ({"start_factor": 0.0}, r"optim.schedule.start_factor must be in \(0, 1\], got 0.0"),
        ({"power": 0.0}, "optim.schedule.power must be positive and finite, got 0.0"),
        ({"cycle_epochs": -1.0}, "optim.schedule.cycle_epochs must be at least 0"),
        (
            {"cycle_epochs": 0.2},
            "must be 0 or at least one step, which is 0.25 epochs",
        ),
        ({"cycle_factor": 0.5}, "optim.schedule.cycle_factor must be at least 1"),
    ],
)
def test_a_mistake_is_named(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rates({"name": "cosine", **options})
