"""Tests of optimizers and schedules whose numbers are JAX arrays, and of trees of any kind."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import errors, optim, plan

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("optim")

PARAMS = {"kernel": jnp.arange(1.0, 4.0), "bias": jnp.ones(2)}
GRADS = jax.tree.map(jnp.cos, PARAMS)

OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"name": "sgd", "learning_rate": 0.1},
    "momentum": {
        "name": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.01,
        "clip_norm": 0.5,
    },
    "rmsprop": {"name": "rmsprop", "learning_rate": 0.1, "rms_decay": 0.8},
    "adamw": {"name": "adamw", "learning_rate": 0.1, "b1": 0.8, "b2": 0.9, "weight_decay": 0.01},
    "warm-up": {
        "name": "adam",
        "learning_rate": 0.1,
        "eps": 1e-3,
        "schedule": {"name": "cosine", "warmup_epochs": 2.0},
        "total_steps": 3,
    },
}
# Further ones, whose stages are the new ones of the others.
SLOW: Mapping[str, Mapping[str, Any]] = {
    "lars": {
        "name": "lars",
        "learning_rate": 0.1,
        "momentum": 0.5,
        "trust_coefficient": 0.1,
        "weight_decay": 0.01,
        "l1": 0.1,
        "clip_value": 0.5,
        "clip_adaptive": 0.5,
    },
    "lamb": {"name": "lamb", "learning_rate": 0.1, "weight_decay": 0.1, "eps": 1e-3},
    "rmsprop_tf": {"name": "rmsprop_tf", "learning_rate": 0.1, "momentum": 0.5, "eps": 1e-3},
    "adagrad": {"name": "adagrad", "learning_rate": 0.1, "initial_accumulator": 0.5},
    "muon": {"name": "muon", "learning_rate": 0.1, "momentum": 0.5, "eps": 1e-3},
}
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "cosine": {"name": "cosine", "warmup_epochs": 3.0},
    "step": {"name": "step", "boundary_epochs": (2.0, 4.0)},
    "exponential": {"name": "exponential", "decay_epochs": 2.0, "decay_factor": 0.5},
    "staircase": {"name": "exponential", "decay_epochs": 2.0, "staircase": True},
    "restarts": {"name": "cosine", "cycle_epochs": 2.0, "cycle_factor": 2.0, "end_factor": 0.1},
    "even restarts": {"name": "cosine", "cycle_epochs": 2.0, "cycle_factor": 1.0},
    "polynomial": {"name": "polynomial", "power": 2.0, "end_factor": 0.1},
    "one_cycle": {"name": "one_cycle", "peak_at": 0.4, "start_factor": 0.1, "end_factor": 0.1},
    "exponential warm-up": {
        "name": "constant",
        "warmup": "exponential",
        "warmup_epochs": 3.0,
        "warmup_factor": 0.1,
    },
}


def trained(optimizer: optax.GradientTransformation) -> Any:
    """Returns the parameters after three updates."""
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
        updates, state = optimizer.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(result: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), result, expected)


@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(options, id=name) for name, options in OPTIMIZERS.items()),
        *(pytest.param(options, id=name, marks=pytest.mark.slow) for name, options in SLOW.items()),
    ],
)
def test_injected_and_mapped_numbers_give_the_same_steps(options: Mapping[str, Any]) -> None:
    expected = trained(optim.make(**options))
    injected = optax.inject_hyperparams(optim.make)(**options)
    assert_close(jax.jit(lambda: trained(injected))(), expected)

    numbers = {key: value for key, value in options.items() if isinstance(value, float)}
    pairs = {key: jnp.array([value, value / 2]) for key, value in numbers.items()}
    mapped = jax.vmap(lambda given: trained(optim.make(**{**options, **given})))(pairs)
    halves = {key: value / 2 for key, value in numbers.items()}
    second = trained(optim.make(**{**options, **halves}))
    assert_close(mapped, jax.tree.map(lambda a, b: jnp.stack([a, b]), expected, second))


def test_numbers_of_zero_switch_nothing_on() -> None:
    keys = ("momentum", "weight_decay", "l1", "clip_norm", "clip_value", "clip_adaptive")
    options: dict[str, Any] = dict.fromkeys(keys, 0.0)
    expected = trained(optim.make(name="sgd", learning_rate=0.1, **options))
    arrays: dict[str, Any] = {key: jnp.array(value) for key, value in options.items()}
    assert_close(trained(optim.make(name="sgd", learning_rate=0.1, **arrays)), expected)


@pytest.mark.parametrize("options", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_of_traced_numbers_have_the_same_rates(options: Mapping[str, Any]) -> None:
    numbers = {
        "learning_rate": 0.1,
        "total_steps": 9,
        "steps_per_epoch": 1,
        **{key: value for key, value in options.items() if isinstance(value, float)},
    }

    def rates(numbers: Mapping[str, Any]) -> jax.Array:
        return optim.make_schedule(**{**options, **numbers})(jnp.arange(9))

    np.testing.assert_allclose(jax.jit(rates)(numbers), rates(numbers), rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"), [("learning_rate", -0.1), ("learning_rate", np.nan), ("momentum", 1.0)]
)
def test_known_arrays_out_of_range_raise(key: str, value: float) -> None:
    options: dict[str, Any] = {"learning_rate": 0.1, key: jnp.array(value)}
    with pytest.raises(errors.UserError, match=f"optim.{key} must be at least 0"):
        optim.make(name="sgd", **options)


class Layer(NamedTuple):
    kernel: Any
    bias: Any


ONES = jnp.ones(2)
BEFORE = plan.keys()["optim.decay"].before


@pytest.mark.parametrize(
    ("params", "decay", "decayed"),
    [
        (ONES, BEFORE, [True]),
        ([ONES, ONES], BEFORE, [True, True]),
        ([ONES, ONES], ("1",), [False, True]),
        ({"bias": [ONES, ONES], "a": [ONES]}, BEFORE, [True, False, False]),
        (Layer(ONES, ONES), BEFORE, [True, False]),
        (Layer(ONES, ONES), optim.KERNELS, [True, False]),
        ((ONES, {"scale": ONES}), BEFORE, [True, False]),
        ({0: ONES, 1: {"bias": ONES}}, BEFORE, [True, False]),
        ({"a": ONES, "bias": nn.Partitioned(ONES, (None,))}, BEFORE, [True, False]),
        ({"kernel": nn.Partitioned(ONES, (None,))}, optim.KERNELS, [True]),
    ],
)
def test_weight_decay_takes_any_tree(
    params: Any, decay: tuple[str, ...], decayed: list[bool]
) -> None:
    optimizer = optim.make(name="sgd", learning_rate=1.0, weight_decay=0.5, decay=decay)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    found = [bool((leaf == -0.5).all()) for leaf in jax.tree.leaves(updates)]
    assert found == decayed
