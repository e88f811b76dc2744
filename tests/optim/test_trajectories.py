"""Tests of the optimizers against 50 steps of other libraries in float64.

`make_trajectories.py` wrote the golden values of torch, timm, TensorFlow, Keras and NumPy.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import optim
from tests.optim import problem

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("optim")

DATA = Path(__file__).parent / "data"
MOMENTS = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
RMS = {"rms_decay": 0.8, "eps": 1e-3}
SGD = {"name": "sgd", "momentum": 0.9}
MUON = {"name": "muon", "momentum": 0.95, **MOMENTS}
LARS = {"name": "lars", "momentum": 0.9, "trust_coefficient": 0.1}
RMSPROP_TF = {"name": "rmsprop_tf", **RMS}

# The arguments of `optim.make` by library and case; the weight decay is `problem.WEIGHT_DECAY`.
CASES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "torch": {
        "sgd": {"name": "sgd"},
        "momentum": SGD,
        "nesterov": {**SGD, "nesterov": True},
        "adam": {"name": "adam", **MOMENTS},
        "adamw": {"name": "adamw", "weight_decay": 0.5, **MOMENTS},
        "adagrad": {"name": "adagrad", "eps": 1e-3},
        "adagrad from 0.3": {"name": "adagrad", "eps": 1e-3, "initial_accumulator": 0.3},
        "adadelta": {"name": "adadelta", **RMS},
        "rmsprop": {"name": "rmsprop", **RMS},
        "rmsprop with momentum": {"name": "rmsprop", "momentum": 0.9, **RMS},
        "timm rmsprop_tf": {**RMSPROP_TF, "momentum": 0.9},
        "lamb": {"name": "lamb", **MOMENTS},
        "lamb, clipped": {"name": "lamb", "clip_norm": 1.0, **MOMENTS},
        "lars": LARS,
        "lars with nesterov": {**LARS, "nesterov": True},
        "factors": {
            "name": "adamw",
            "weight_decay": 0.5,
            "rate_factors": (("dense/kernel", 0.1), ("^dense/", 3.0)),
            **MOMENTS,
        },
        "l1": {**SGD, "l1": 0.05},
        "clip_value": {**SGD, "clip_value": 0.5},
        "clip_adaptive": {**SGD, "clip_adaptive": 0.2},
    },
    "tensorflow": {
        "rmsprop_tf": {**RMSPROP_TF, "momentum": 0.9},
        "rmsprop_tf without momentum": RMSPROP_TF,
        "keras rmsprop": {**RMSPROP_TF, "momentum": 0.9, "initial_accumulator": 0.0},
    },
    "numpy": {
        "lion": {"name": "lion", "b1": 0.8, "b2": 0.95},
        "muon": MUON,
        "muon with nesterov": {**MUON, "nesterov": True},
    },
}
SLOW = {
    "sgd",
    "nesterov",
    "adagrad from 0.3",
    "rmsprop",
    "timm rmsprop_tf",
    "lamb, clipped",
    "lars with nesterov",
    "rmsprop_tf without momentum",
    "keras rmsprop",
    "muon",
}
EVERY_CASE = [
    pytest.param(library, case, marks=[pytest.mark.slow] * (case in SLOW))
    for library, cases in CASES.items()
    for case in cases
]


@functools.cache
def golden(library: str) -> Any:
    return json.loads((DATA / f"trajectories-{library}.json").read_text())["cases"]


def nested(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns a tree with the paths of parameters as `conv/kernel`."""
    tree: dict[str, dict[str, Any]] = {}
    for path, value in params.items():
        layer, name = path.split("/")
        tree.setdefault(layer, {})[name] = value
    return tree


def trajectory(options: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    """Returns the parameters after the stored steps of an optimizer of the package."""
    optimizer = optim.make(
        learning_rate=problem.RATE,
        total_steps=problem.STEPS,
        schedule={"name": "cosine", "warmup_epochs": problem.WARMUP},
        **{"weight_decay": problem.WEIGHT_DECAY, **options},
    )

    def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
        params, state = carry
        slope, noise = inputs
        grads = jax.tree.map(lambda leaf, part: slope * leaf + part, params, noise)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, nested(problem.start()))
        noises = [nested(problem.noise(number)) for number in range(problem.STEPS)]
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *noises)
        slopes = 0.5 + 0.02 * jnp.arange(problem.STEPS, dtype=float)
        _, found = jax.lax.scan(step, (params, optimizer.init(params)), (slopes, stacked))
    return [jax.tree.map(lambda leaf, at=at: np.asarray(leaf[at]), found) for at in problem.STORED]


def assert_equal(library: str, case: str, options: Mapping[str, Any], tolerance: float) -> None:
    for ours, theirs in zip(trajectory(options), golden(library)[case], strict=True):
        for path, expected in theirs.items():
            layer, name = path.split("/")
            found = ours[layer][name].flatten()
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=path)


@pytest.mark.parametrize(("library", "case"), EVERY_CASE)
def test_fifty_steps_equal_those_of_the_reference(library: str, case: str) -> None:
    assert_equal(library, case, CASES[library][case], tolerance=1e-12)


@pytest.mark.slow
def test_clipping_by_the_norm_equals_torchs_but_for_its_epsilon() -> None:
    """torch divides by the norm plus 1e-6, TensorFlow and Optax by the norm."""
    assert_equal("torch", "clip_norm", {**SGD, "clip_norm": 2.0}, tolerance=1e-6)


def test_every_optimizer_has_a_reference() -> None:
    named = {case["name"] for cases in CASES.values() for case in cases.values()}
    assert named == set(optim.OPTIMIZERS)
