"""Tests of `optim.layer_decay`: rates that fall from the head to the input."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from cnn_jax import contracts, errors, models, objectives, optim, plan, train
from cnn_jax.models import structure
from cnn_jax.pretrained.families import convnext, resnet, vit
from cnn_jax.train import layer_rates

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("optim")

DATA = Path(__file__).parent / "data"
DECAY = 0.75  # of the stored factors
VIT = "vit_tiny_patch16_224"
TABLES = {VIT: vit, "convnext_tiny": convnext, "resnet18": resnet}
# The options of the networks in `make_layers.py`.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    VIT: {},
    "convnext_tiny": {"stage_sizes": (1, 2, 3, 1), "widths": (4, 8, 8, 8)},
    "resnet18": {"stage_sizes": (1, 2, 1, 3)},
}


def factors_of(name: str) -> dict[str, float]:
    """Returns the factor of each parameter of a network by its name in timm."""
    model, shape = models.create(name, num_classes=1000, **OPTIONS[name]), (224, 224, 3)
    params = structure.variables_of(model, shape)["params"]
    factors = optim.layer_factors(params, DECAY, models.depths(model, shape))
    table = TABLES[name].NAMES[name]
    return {table.torch(path): one for path, one in traverse_util.flatten_dict(factors).items()}


def stored(library: str, name: str) -> dict[str, float]:
    content = json.loads((DATA / f"layers-{library}.json").read_text())
    found: dict[str, float] = content["cases"][name]
    return found


def test_factors_of_a_vision_transformer_equal_those_of_mae_and_timm() -> None:
    """timm counts the last normalisation with the last block."""
    found = factors_of(VIT)
    assert found == stored("mae", VIT)
    of_timm = stored("timm", VIT)
    assert {name for name in found if found[name] != of_timm[name]} == {"norm.weight", "norm.bias"}
    assert of_timm.keys() == found.keys()


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet18"])
def test_factors_of_convolutional_networks_equal_those_of_timm(name: str) -> None:
    assert factors_of(name) == stored("timm", name)


PARAMS: Any = {
    "stem": {"kernel": np.full((3, 3, 2, 4), 0.5, np.float32)},
    "block": {"conv": {"kernel": np.full((3, 3, 4, 4), 0.25, np.float32)}},
    "fc": {"kernel": np.full((4, 3), -0.5, np.float32), "bias": np.zeros(3, np.float32)},
}
DEPTHS = {"stem": 0, "block": 1, "fc": 2}
FACTORS = {"stem": 0.25, "block": 0.5, "fc": 1.0}
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"name": "adamw", "weight_decay": 0.1},
    {"name": "muon", "momentum": 0.9, "weight_decay": 0.1},
    {"name": "rmsprop_tf", "momentum": 0.9},
    {"name": "lamb", "weight_decay": 0.1, "rate_factors": (("conv", 3.0),), "clip_norm": 0.1},
]


def updates(optimizer: optax.GradientTransformationExtraArgs, params: Any, steps: int = 2) -> Any:
    """Returns the updates of each step; the parameters stay, so that their values do not matter."""

    def run() -> Any:
        state, found = optimizer.init(params), []
        for step in range(1, steps + 1):
            grads = jax.tree.map(functools.partial(gradient, step), params)
            update, state = optimizer.update(grads, state, params, learning_rate=0.1, value=0.0)
            found.append(update)
        return found

    return jax.jit(run)()


def gradient(step: int, param: np.ndarray) -> np.ndarray:
    return np.cos(step + np.arange(param.size, dtype=np.float32)).reshape(param.shape)


@pytest.mark.parametrize("options", OPTIMIZERS, ids=lambda options: options["name"])
def test_updates_are_those_without_decay_times_the_factor(options: dict[str, Any]) -> None:
    """The decay is a power of 2, so that the products are exact."""
    plain = optim.make(learning_rate=1.0, **options)
    scaled = optim.scale_layers(plain, 0.5, DEPTHS)
    for before, after in zip(updates(plain, PARAMS), updates(scaled, PARAMS), strict=True):
        assert before.keys() == after.keys()
        for name, factor in FACTORS.items():
            for one, other in zip(
                jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True
            ):
                assert one.any()
                np.testing.assert_array_equal(other, np.float32(factor) * one)


def test_the_state_is_that_of_the_optimizer() -> None:
    plain = optim.make(name="adam", learning_rate=1.0)
    scaled = optim.scale_layers(plain, 0.5, DEPTHS)
    with_decay, without = (jax.eval_shape(one.init, PARAMS) for one in (scaled, plain))
    assert jax.tree.leaves_with_path(with_decay) == jax.tree.leaves_with_path(without)
    assert optim.scale_layers(plain, 1.0, DEPTHS) == plain


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(errors.UserError, match=r"layer_decay must be in \(0, 1\]"):
        optim.scale_layers(optim.make(name="sgd", learning_rate=1.0), decay, DEPTHS)
    with pytest.raises(errors.UserError, match=r"layer_decay must be in \(0, 1\]"):
        plan.read({"optim.layer_decay": decay})


def test_a_parameter_outside_of_the_network_is_refused() -> None:
    optimizer = optim.scale_layers(optim.make(name="sgd", learning_rate=1.0), 0.5, {"fc": 1})
    with pytest.raises(errors.UserError, match=r"the layer of the parameter block/conv/kernel is"):
        optimizer.init(PARAMS)


def test_an_objective_without_a_network_is_refused() -> None:
    objective: Any = type("Objective", (), {})()
    optimizer = optax.with_extra_args_support(optax.sgd(0.1))
    given = plan.read({"optim.layer_decay": 0.5})
    with pytest.raises(errors.UserError, match=r"optim.layer_decay needs an objective with the"):
        layer_rates.scale(optimizer, given, objective, (8, 8, 1))
    assert layer_rates.scale(optimizer, plan.Plan(), objective, (8, 8, 1)) is optimizer


def test_frozen_layers_count_and_stay() -> None:
    given = plan.read({"model.name": "mlp", "optim.layer_decay": 0.5, "train.trainable": "hidden1"})
    shape = (4, 4, 1)
    description = contracts.Description(("0", "1"), None, shape, (), ())
    objective = objectives.make(given, description)
    optimizer = objectives.restrict(optim.make(name="sgd", learning_rate=1.0), objective)
    optimizer = layer_rates.scale(optimizer, given, objective, shape)
    params = objectives.shapes(objective, shape)["params"]
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), params)
    found = jax.jit(lambda: optimizer.update(ones, optimizer.init(ones), ones)[0])()
    assert {float(leaf.mean()) for leaf in jax.tree.leaves(found["hidden1"])} == {-0.5}
    assert not any(leaf.any() for leaf in jax.tree.leaves(found["output"]))


SETTINGS: Mapping[str, Any] = {
    "model": {"name": "mlp", "widths": (4, 4)},
    "data": {"source": "digits"},
    "train": {"batch_size": 512, "steps": 2},
}


@pytest.mark.slow
def test_a_run_equals_one_with_the_factors_as_patterns() -> None:
    """The decay is a power of 2, so that the order of the products does not matter."""
    options = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}
    factors = (("^hidden1/", 0.25), ("^hidden2/", 0.5))
    runs = [
        train.run({**SETTINGS, "optim": {**options, **given}}, progress=False)
        for given in ({"layer_decay": 0.5}, {"rate_factors": factors})
    ]
    by_layer, by_pattern = [run.history[-1]["params_sha256"] for run in runs]
    assert by_layer == by_pattern


def test_a_network_without_layers_stops_a_run_before_it_starts(tmp_path: Path) -> None:
    given = {**SETTINGS, "model": {"name": "logistic_regression"}, "optim": {"layer_decay": 0.5}}
    with pytest.raises(errors.UserError, match="LogisticRegression has one layer"):
        train.run(given, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_of_a_user_does_not_read_the_decay() -> None:
    given = plan.read({"optim.name": "optax:lion", "optim.layer_decay": 0.5}).optim
    with pytest.raises(errors.UserError, match=r"does not read optim.layer_decay"):
        optim.of_plan(given, 10, 2, batch_size=8)
