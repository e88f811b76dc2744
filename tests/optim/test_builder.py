"""Tests of the optimizers of a config against NumPy implementations of the papers' equations."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import optim

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("optim")

STEPS = 7
RATE = 0.1

Tree = dict[str, dict[str, Any]]
Rule = Callable[[np.ndarray, int], np.ndarray]


def start() -> Tree:
    """Returns the initial parameters, float64."""
    rng = np.random.default_rng(0)
    return {
        "dense": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)},
        "norm": {"scale": rng.normal(size=2), "bias": rng.normal(size=2)},
    }


def gradient(value: Any, step: int) -> Any:
    """Returns the gradient of an artificial loss that changes with the step, as batches do."""
    return (1 + 0.3 * step) * value + np.cos(step + np.arange(value.shape[-1]))


def trajectory(**options: Any) -> list[Tree]:
    """Returns the parameters after each step of `optim.make(**options)`, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, start())
        optimizer = optim.make(learning_rate=RATE, total_steps=STEPS, **options)
        state = optimizer.init(params)
        result = []
        for step in range(STEPS):
            grads = jax.tree.map(lambda leaf, step=step: gradient(leaf, step), params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            result.append(jax.device_get(params))
    return result


def plain_trajectory(
    make_rule: Callable[[], Rule], *, coupled: float = 0.0, decoupled: float = 0.0
) -> list[Tree]:
    """Returns the same trajectory from a NumPy rule; weight decay applies to kernels only."""
    result: list[Tree] = [{layer: {} for layer in start()} for _ in range(STEPS)]
    for layer, group in start().items():
        for name, value in group.items():
            rule, decays, now = make_rule(), float(name == "kernel"), value
            for step in range(STEPS):
                direction = rule(gradient(now, step) + decays * coupled * now, step)
                now = now - RATE * (direction + decays * decoupled * now)
                result[step][layer][name] = now
    return result


def sgd() -> Rule:
    return lambda g, step: g


def momentum(nesterov: bool = False) -> Rule:
    """Momentum of Sutskever et al. 2013, with a velocity that excludes the learning rate."""
    v: Any = 0.0

    def rule(g: np.ndarray, step: int) -> np.ndarray:
        nonlocal v
        v = 0.9 * v + g
        return g + 0.9 * v if nesterov else v

    return rule


def nesterov() -> Rule:
    return momentum(nesterov=True)


def rmsprop() -> Rule:
    """RMSprop of Tieleman & Hinton 2012, with momentum and eps outside the root, as in torch."""
    s: Any = 0.0
    v: Any = 0.0

    def rule(g: np.ndarray, step: int) -> np.ndarray:
        nonlocal s, v
        s = 0.8 * s + 0.2 * g**2
        v = 0.9 * v + g / (np.sqrt(s) + 1e-3)
        return v

    return rule


def adam() -> Rule:
    """Adam of Kingma & Ba 2015, algorithm 1."""
    m: Any = 0.0
    v: Any = 0.0

    def rule(g: np.ndarray, step: int) -> np.ndarray:
        nonlocal m, v
        m = 0.8 * m + 0.2 * g
        v = 0.95 * v + 0.05 * g**2
        return (m / (1 - 0.8 ** (step + 1))) / (np.sqrt(v / (1 - 0.95 ** (step + 1))) + 1e-3)

    return rule


RULES: Mapping[str, tuple[Callable[[], Rule], Mapping[str, Any]]] = {
    "sgd": (sgd, {"name": "sgd"}),
    "momentum": (momentum, {"name": "sgd", "momentum": 0.9}),
    "nesterov": (nesterov, {"name": "sgd", "momentum": 0.9, "nesterov": True}),
    "rmsprop": (rmsprop, {"name": "rmsprop", "momentum": 0.9, "rms_decay": 0.8, "eps": 1e-3}),
    "adam": (adam, {"name": "adam", "b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "adamw": (adam, {"name": "adamw", "b1": 0.8, "b2": 0.95, "eps": 1e-3}),
}


@pytest.mark.parametrize(
    ("rule", "decay"),
    [
        (rule, decay)
        for rule in RULES
        for decay in ("none", "coupled", "decoupled")
        if (rule, decay) != ("adamw", "coupled")
    ],
)
def test_trajectory_equals_the_reference(rule: str, decay: str) -> None:
    make_rule, options = RULES[rule]
    decays = {} if decay == "none" else {"weight_decay": 0.5, "weight_decay_kind": decay}
    expected = plain_trajectory(make_rule, **({} if decay == "none" else {decay: 0.5}))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-9),
        trajectory(**options, **decays),
        expected,
    )


@pytest.mark.parametrize(("norm", "expected"), [(0.5, 0.5), (2.0, 2.0), (10.0, 2.0)])
def test_clipping_limits_the_global_gradient_norm(norm: float, expected: float) -> None:
    optimizer = optim.make(name="sgd", learning_rate=1.0, total_steps=1, clip_norm=2.0)
    direction = {"a": {"kernel": np.array([0.6, 0.0])}, "b": {"bias": np.array([0.8])}}
    grads = jax.tree.map(lambda leaf: jnp.asarray(norm * leaf), direction)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    jax.tree.map(
        lambda update, unit: np.testing.assert_allclose(update, -expected * unit, rtol=1e-6),
        updates,
        direction,
    )


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_the_automatic_kind_of_weight_decay_is_the_optimizers_own(name: str) -> None:
    is_decoupled = name in ("adamw", "lamb", "lion", "muon")
    assert optim.weight_decay_kind(name) == ("decoupled" if is_decoupled else "coupled")


@pytest.mark.parametrize(("name", "kind"), [("adam", "coupled"), ("adamw", "decoupled")])
def test_the_automatic_kind_gives_the_steps_of_that_kind(name: str, kind: str) -> None:
    automatic = trajectory(name=name, weight_decay=0.5)
    explicit = trajectory(name=name, weight_decay=0.5, weight_decay_kind=kind)
    jax.tree.map(np.testing.assert_array_equal, automatic, explicit)


def test_a_given_kind_of_weight_decay_and_that_of_other_optimizers_stay() -> None:
    assert optim.weight_decay_kind("sgd", "decoupled") == "decoupled"
    assert optim.weight_decay_kind("my_module:make") == "auto"


def test_clipping_precedes_coupled_weight_decay() -> None:
    optimizer = optim.make(
        name="sgd", learning_rate=1.0, total_steps=1, clip_norm=1.0, weight_decay=0.1
    )
    params, grads = {"kernel": jnp.array([20.0])}, {"kernel": jnp.array([5.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [-(1.0 + 2.0)], rtol=1e-6)


def test_the_optimizer_follows_its_schedule() -> None:
    schedule = {"name": "step", "warmup_epochs": 0.5, "boundary_epochs": (1.0,)}
    optimizer = optim.make(
        name="sgd", learning_rate=0.4, total_steps=12, steps_per_epoch=4, schedule=schedule
    )
    params = {"kernel": jnp.ones(())}
    state = optimizer.init(params)
    rates = []
    for _ in range(6):
        updates, state = optimizer.update(params, state, params)
        rates.append(-float(updates["kernel"]))
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.4, 0.4, 0.04, 0.04], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_given_learning_rate_replaces_that_of_the_schedule(name: str) -> None:
    """A run with the rates as an operand equals one with the schedule, to the bit."""
    params = {"kernel": jnp.asarray([1.0, -2.0])}
    schedule = optim.make_schedule(0.3, name="cosine", total_steps=9)
    optimizer = optim.make(name=name, learning_rate=schedule)
    other = optim.make(name=name, learning_rate=77.0)
    state, same = optimizer.init(params), other.init(params)
    for step in range(3):
        expected, state = optimizer.update(params, state, params)
        rate = schedule(jnp.int32(step))
        given, same = other.update(params, same, params, learning_rate=rate, value=1.0)
        np.testing.assert_array_equal(given["kernel"], expected["kernel"])
        jax.tree.map(np.testing.assert_array_equal, same, state)


MOMENTS = ("mu['kernel']", "nu['kernel']")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "sgd"}, {"[2].count"}),
        ({"name": "sgd", "clip_norm": 1.0, "weight_decay": 0.1}, {"[3].count"}),
        ({"name": "sgd", "momentum": 0.9}, {"[1].trace['kernel']", "[2].count"}),
        (
            {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1},
            {"[2].trace['kernel']", "[3].count"},
        ),
        (
            {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1, "weight_decay_kind": "decoupled"},
            {"[1].trace['kernel']", "[3].count"},
        ),
        ({"name": "adam"}, {"[1].count", "[2].count", *(f"[1].{name}" for name in MOMENTS)}),
        (
            {"name": "adamw", "weight_decay": 0.1},
            {"[1].count", "[3].count", *(f"[1].{name}" for name in MOMENTS)},
        ),
        ({"name": "rmsprop"}, {"[1][0].nu['kernel']", "[2].count"}),
        (
            {"name": "rmsprop", "momentum": 0.9, "weight_decay": 0.1},
            {"[2][0].nu['kernel']", "[2][1].trace['kernel']", "[3].count"},
        ),
    ],
)
def test_the_paths_of_the_state_are_those_of_older_checkpoints(
    options: Mapping[str, Any], expected: set[str]
) -> None:
    state = optim.make(learning_rate=0.1, **options).init({"kernel": jnp.ones(2)})
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)}
    assert paths == expected
    assert isinstance(state[-1], optax.ScaleByScheduleState)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adma"}, "unknown optimizer 'adma'; did you mean 'adam'"),
        (
            {"name": "zzz"},
            "allowed: adadelta, adagrad, adam, adamw, lamb, lars, lion, muon, rmsprop, rms",
        ),
        ({"weight_decay_kind": "copuled"}, "did you mean 'coupled'"),
        (
            {"name": "adamw", "weight_decay": 0.1, "weight_decay_kind": "coupled"},
            "set optim.weight_decay_kind to 'auto' or 'decoupled'",
        ),
        ({"learning_rate": -0.1}, "optim.learning_rate must be at least 0 and finite, got -0.1"),
        ({"learning_rate": float("nan")}, "optim.learning_rate"),
        ({"learning_rate": float("inf")}, "optim.learning_rate must be .* finite, got inf"),
        ({"weight_decay": -1e-4}, "optim.weight_decay"),
        ({"clip_norm": -1.0}, "optim.clip_norm"),
        ({"momentum": 1.0}, "optim.momentum must be at least 0 and below 1, got 1.0"),
        ({"b1": 1.0}, "optim.b1"),
        ({"b2": -0.5}, "optim.b2"),
        ({"rms_decay": 1.5}, "optim.rms_decay"),
        ({"name": "adam", "eps": -1e-8}, "optim.eps"),
        ({"schedule": {"name": "cosin"}}, "schedule 'cosin'; did you mean 'cosine'"),
        (
            {"schedule": {"name": "cosine", "warmup_epochs": 4}},
            r"optim.schedule.warmup_epochs must be at most the run's 3 epochs, got 4; shorten the ",
        ),
        ({"schedule": {"name": "cosine", "warmup_epochs": -1}}, "optim.schedule.warmup_epochs"),
        ({"schedule": {"name": "cosine", "warmup_first_step": -1}}, "warmup_first_step must be at"),
        ({"schedule": {"name": "step", "boundary_epochs": (2, 1)}}, "must increase"),
        (
            {"schedule": {"name": "step", "boundary_epochs": (1, 1.04)}},
            r"increase by at least one step, got \(1, 1.04\), which are the steps 10, 10",
        ),
        (
            {"schedule": {"name": "step", "boundary_epochs": (1, 2.5), "warmup_epochs": 2}},
            r"come after the warm-up, which ends at epoch 2, got \(1, 2.5\); shorten",
        ),
        (
            {"schedule": {"name": "step", "boundary_epochs": (float("nan"),)}},
            "optim.schedule.boundary_epochs must be at least 0 and finite, got nan",
        ),
        (
            {"schedule": {"name": "step", "boundary_epochs": (1, float("inf"))}},
            "optim.schedule.boundary_epochs must be at least 0 and finite, got inf",
        ),
        ({"total_steps": 0}, "total_steps must be a positive number of steps, got 0"),
        ({"total_steps": float("nan")}, "total_steps must be a positive number of steps, got nan"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be a positive number of steps, got 0"),
        ({"schedule": {"name": "exponential", "decay_epochs": 0}}, "optim.schedule.decay_epochs"),
        ({"schedule": {"name": "exponential", "decay_factor": 2}}, "optim.schedule.decay_factor"),
        ({"schedule": {"name": "exponential", "decay_factor": 0}}, "optim.schedule.decay_factor"),
    ],
)
def test_invalid_values_raise_and_name_the_key(options: Mapping[str, Any], message: str) -> None:
    defaults = {"name": "sgd", "learning_rate": 0.1, "total_steps": 30, "steps_per_epoch": 10}
    with pytest.raises(ValueError, match=message):
        optim.make(**{**defaults, **options})
