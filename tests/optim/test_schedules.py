"""Tests of learning-rate schedules against their formulas and against Optax."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import optim, plan

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("optim")

PEAK, TOTAL, WARMUP = 0.3, 100, 12
STEPS = np.arange(TOTAL + 10)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "constant"}, {0: 0.8, 50: 0.8, 99: 0.8}),
        (
            {"name": "constant", "warmup_epochs": 0.8},
            {0: 0.1, 1: 0.2, 4: 0.5, 6: 0.7, 7: 0.8, 8: 0.8, 99: 0.8},
        ),
        (
            {"name": "constant", "warmup_epochs": 0.8, "warmup_first_step": 0},
            {0: 0.0, 1: 0.1, 4: 0.4, 7: 0.7, 8: 0.8, 99: 0.8},
        ),
        ({"name": "cosine"}, {0: 0.8, 25: 0.4 + 0.4 * 2**-0.5, 50: 0.4, 75: 0.4 - 0.4 * 2**-0.5}),
        (
            {"name": "cosine", "warmup_epochs": 2},
            {0: 0.04, 9: 0.4, 19: 0.8, 20: 0.8, 60: 0.4, 100: 0.0},
        ),
        (
            {"name": "cosine", "warmup_epochs": 2, "warmup_first_step": 0},
            {0: 0.0, 10: 0.4, 20: 0.8, 60: 0.4, 100: 0.0},
        ),
        ({"name": "exponential", "decay_epochs": 2}, {0: 0.8, 10: 0.8 * 0.1**0.5, 20: 0.08}),
        (
            {"name": "exponential", "decay_factor": 0.5, "warmup_epochs": 1},
            {0: 0.08, 4: 0.4, 10: 0.8, 20: 0.4, 25: 0.4 * 0.5**0.5},
        ),
        (
            {"name": "step", "boundary_epochs": (3, 6.5)},
            {0: 0.8, 29: 0.8, 30: 0.08, 64: 0.08, 65: 0.008, 99: 0.008},
        ),
        (
            {"name": "step", "boundary_epochs": (3,), "decay_factor": 0.5, "warmup_epochs": 1},
            {0: 0.08, 4: 0.4, 10: 0.8, 29: 0.8, 30: 0.4},
        ),
    ],
)
def test_schedule_at_exact_steps(options: Mapping[str, Any], expected: Mapping[int, float]) -> None:
    schedule = optim.make_schedule(0.8, **options, total_steps=100, steps_per_epoch=10)
    rates = {step: float(schedule(step)) for step in expected}
    assert rates == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("total", "first", "expected"),
    [
        (4, 1, [0.25, 0.5, 0.75, 1.0]),
        (4, 0, [0.0, 0.25, 0.5, 0.75]),
        (1, 1, [1.0]),
        (1, 0, [0.0]),
    ],
)
def test_a_warm_up_may_be_the_whole_run(total: int, first: int, expected: list[float]) -> None:
    schedule = optim.make_schedule(
        1.0, name="cosine", total_steps=total, warmup_epochs=total, warmup_first_step=first
    )
    assert [float(schedule(step)) for step in range(total)] == expected


def test_a_warm_up_counts_from_1_in_a_config() -> None:
    schedule = {"warmup_epochs": 2.0, "name": "constant"}
    options = plan.read({"optim": {"learning_rate": 0.8, "schedule": schedule}}).optim
    found, _ = optim.of_plan(options, total_steps=9, steps_per_epoch=2, batch_size=8)
    assert found is not None
    np.testing.assert_allclose(found(np.arange(5), np), [0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-15)


# Options, the formula of the rate relative to the peak, and Optax's schedule after the warm-up.
# Steps are counted from the end of the warm-up.
CASES: Mapping[str, tuple[Mapping[str, Any], Callable[[int], float], Callable[[], Any]]] = {
    "constant": ({}, lambda step: 1.0, lambda: optax.constant_schedule(PEAK)),
    "cosine": (
        {},
        lambda step: 0.5 * (1 + np.cos(math.pi * min(step / 88, 1))),
        lambda: optax.cosine_decay_schedule(PEAK, 88),
    ),
    "exponential": (
        {"decay_epochs": 2.5, "decay_factor": 0.7},
        lambda step: 0.7 ** (step / 25),
        lambda: optax.exponential_decay(PEAK, 25, 0.7),
    ),
    "step": (
        {"boundary_epochs": (3, 6.5), "decay_factor": 0.2},
        lambda step: 0.2 ** float((step >= 18) + (step >= 53)),
        lambda: optax.piecewise_constant_schedule(PEAK, {18: 0.2, 53: 0.2}),
    ),
}


def make(name: str, first: int = 1) -> optim.Schedule:
    return optim.make_schedule(
        PEAK,
        name=name,
        total_steps=TOTAL,
        steps_per_epoch=10,
        warmup_epochs=1.2,
        warmup_first_step=first,
        **CASES[name][0],
    )


@pytest.mark.parametrize("name", CASES)
def test_the_host_computes_the_formula_in_float64(name: str) -> None:
    schedule, formula = make(name), CASES[name][1]
    for step in map(int, STEPS):
        expected = PEAK * ((step + 1) / WARMUP if step < WARMUP else formula(step - WARMUP))
        rate = schedule(step, np)
        assert type(rate) is np.float64
        assert rate == expected


@pytest.mark.parametrize("name", CASES)
def test_no_step_of_a_run_has_the_rate_0(name: str) -> None:
    rates = make(name)(STEPS[:TOTAL], np)
    assert rates.min() > 0
    if name == "cosine":
        last = PEAK * math.sin(math.pi / (2 * (TOTAL - WARMUP))) ** 2
        assert rates[-1] == rates.min() == pytest.approx(last, rel=1e-9)


WARMUPS = {
    0: lambda: optax.linear_schedule(0.0, PEAK, WARMUP),
    1: lambda: optax.linear_schedule(PEAK / WARMUP, PEAK, WARMUP - 1),
}


@pytest.mark.parametrize("first", WARMUPS)
@pytest.mark.parametrize("name", CASES)
def test_rates_in_float32_equal_those_of_optax(name: str, first: int) -> None:
    schedules = [WARMUPS[first](), CASES[name][2]()]
    theirs = jax.vmap(optax.join_schedules(schedules, [WARMUP]))(STEPS)
    ours = jax.jit(make(name, first))(STEPS)
    assert ours.dtype == jnp.float32
    # Optax computes the warm-up and the cosine from differences of numbers close to the peak.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7 * PEAK)


@pytest.mark.parametrize("name", CASES)
def test_rates_in_float64_mode_equal_those_of_the_host(name: str) -> None:
    schedule = make(name)
    with jax.enable_x64(True):
        rates = schedule(jnp.asarray(STEPS))
    assert rates.dtype == jnp.float64
    np.testing.assert_allclose(rates, schedule(STEPS, np), rtol=1e-14, atol=1e-16)


def test_a_schedule_is_one_of_optax() -> None:
    schedule = make("cosine")
    state = optax.sgd(schedule).init({})
    _, state = optax.sgd(schedule).update({}, state)
    assert jax.tree.leaves(state) == [1]
