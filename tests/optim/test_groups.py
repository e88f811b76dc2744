"""Tests of parameter groups, of rates by batch size, and of every optimizer on any tree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import errors, optim, plan, train

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("optim")

PARAMS: dict[str, dict[str, Any]] = {
    "conv": {"kernel": np.full((3, 3, 2, 4), 0.5, np.float32), "bias": np.full(4, -0.25, "f")},
    "depthwise": {"kernel": np.full((3, 3, 1, 4), 2.0, np.float32)},
    "output": {"kernel": np.full((4, 3), -0.5, np.float32), "bias": np.zeros(3, np.float32)},
}
ZEROS = jax.tree.map(np.zeros_like, PARAMS)
ONES = jax.tree.map(np.ones_like, PARAMS)


def update(grads: Any, params: Any, **options: Any) -> Any:
    """Returns the first update of an optimizer with the rate 1."""
    optimizer = optim.make(**{"name": "sgd", "learning_rate": 1.0, **options})
    return jax.jit(lambda: optimizer.update(grads, optimizer.init(params), params)[0])()


def test_the_first_pattern_that_matches_gives_the_factor_of_the_rate() -> None:
    factors = (("^output/", 4.0), ("bias$", 2.0), ("conv", 0.0))
    found = jax.tree.map(lambda leaf: -leaf.max(), update(ONES, PARAMS, rate_factors=factors))
    assert found == {
        "conv": {"kernel": 0.0, "bias": 2.0},
        "depthwise": {"kernel": 1.0},
        "output": {"kernel": 4.0, "bias": 4.0},
    }


def test_decoupled_weight_decay_has_the_factor_of_the_rate() -> None:
    options = {"weight_decay": 0.1, "weight_decay_kind": "decoupled"}
    found = update(ZEROS, PARAMS, rate_factors=(("^conv", 0.5),), **options)
    np.testing.assert_allclose(found["conv"]["kernel"], -0.05 * PARAMS["conv"]["kernel"], rtol=1e-6)
    kernel = PARAMS["output"]["kernel"]
    np.testing.assert_allclose(found["output"]["kernel"], -0.1 * kernel, rtol=1e-6)


def test_the_l1_penalty_has_the_sign_of_the_parameters_with_weight_decay() -> None:
    found = update(ZEROS, PARAMS, l1=0.25, clip_norm=1e-3)
    np.testing.assert_array_equal(found["conv"]["kernel"], -0.25)
    np.testing.assert_array_equal(found["output"]["kernel"], 0.25)
    assert not found["conv"]["bias"].any()
    zero = {"kernel": jnp.zeros(2)}
    assert not update(zero, zero, l1=0.25)["kernel"].any()


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_parameters_without_weight_decay_keep_their_rate(name: str) -> None:
    """timm leaves them out, and all of them without a coefficient."""
    plain = {"lamb": "adam", "lars": "sgd"}[name]
    expected = update(ONES, PARAMS, name=plain)
    found = update(ONES, PARAMS, name=name, weight_decay=0.1)
    np.testing.assert_array_equal(found["conv"]["bias"], expected["conv"]["bias"])
    assert (found["conv"]["kernel"] != expected["conv"]["kernel"]).all()
    off = update(ONES, PARAMS, name=name)
    jax.tree.map(np.testing.assert_array_equal, off, expected)


def test_muon_leaves_depthwise_kernels_and_vectors_to_adam() -> None:
    found = update(ONES, PARAMS, name="muon", momentum=0.9)
    adam = update(ONES, PARAMS, name="adam")
    for layer, name in (("depthwise", "kernel"), ("conv", "bias"), ("output", "bias")):
        np.testing.assert_array_equal(found[layer][name], adam[layer][name])
    # The gradient has rank 1, so its norm is its largest singular value, which comes close to 1.
    assert 0.6 < np.linalg.norm(found["output"]["kernel"]) < 1.3


def test_a_unit_of_adaptive_clipping_is_an_output_channel() -> None:
    grads = {"kernel": jnp.array([[3.0, 0.1], [4.0, 0.0]]), "bias": jnp.array([3.0, 4.0])}
    params = {"kernel": jnp.array([[0.0, 1.0], [2.0, 0.0]]), "bias": jnp.array([0.0, 1.0])}
    found = update(grads, params, clip_adaptive=0.5)
    np.testing.assert_allclose(found["kernel"], [[-0.6, -0.1], [-0.8, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(found["bias"], [-0.3, -0.4], rtol=1e-6)


def test_limits_of_the_gradient_come_in_the_order_unit_value_norm() -> None:
    grads, params = {"kernel": jnp.array([[3.0], [4.0]])}, {"kernel": jnp.array([[0.6], [0.8]])}
    limits = {"clip_adaptive": 2.0, "clip_value": 1.0, "clip_norm": 0.5}
    # Unit: (1.2, 1.6); value: (1, 1); norm: 0.5 of sqrt(2).
    found = update(grads, params, **limits)
    np.testing.assert_allclose(found["kernel"], -0.5 / np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_steps_with_frozen_and_boxed_parameters(name: str) -> None:
    given = {"optim.name": name, "optim.weight_decay": 0.1, "optim.l1": 0.1}
    options = plan.read({**given, "optim.rate_factors": (("kernel", 0.5),)}).optim
    _, optimizer = optim.of_plan(options, 10, 2, batch_size=8)
    params = {**PARAMS, "boxed": {"kernel": nn.Partitioned(jnp.ones((2, 2)), (None, None))}}
    trained = jax.tree.map(lambda leaf: leaf.shape[-1] != 3, params)
    masked = optax.with_extra_args_support(optax.masked(optimizer, trained))

    def step(params: Any) -> Any:
        state = masked.init(params)
        updates, _ = masked.update(params, state, params, learning_rate=0.1, value=0.0)
        return optax.apply_updates(params, updates)

    changed = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jax.eval_shape(step, params))
    assert changed == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_factors": (("fc", 0.1),)}, "optim.rate_factors 'fc' matches none of the 5 param"),
        ({"rate_factors": (("head", 0.1),)}, "'head' is an alias in train.trainable and init.take"),
        ({"rate_factors": (("[", 0.1),)}, r"optim.rate_factors '\[' is no regular expression"),
        ({"rate_factors": (("conv", -1.0),)}, "optim.rate_factors of 'conv' must be at least 0"),
        ({"rate_factors": {"conv": 0.1}}, "optim.rate_factors must be a tuple of pairs, such as"),
        ({"rate_factors": ("conv", 0.1)}, "optim.rate_factors must be a tuple of pairs, such as"),
        ({"l1": 0.1, "decay": ()}, "has no pattern, so optim.l1 0.1 has no effect"),
        ({"l1": 0.1, "decay": ("fc",)}, "optim.decay 'fc' matches none"),
        ({"l1": -0.1}, "optim.l1 must be at least 0"),
        ({"clip_value": -1.0}, "optim.clip_value must be at least 0"),
        ({"clip_adaptive": -1.0}, "optim.clip_adaptive must be at least 0"),
        ({"name": "lars", "trust_coefficient": 0.0}, "optim.trust_coefficient must be positive"),
        ({"name": "adagrad", "initial_accumulator": -0.5}, "must be at least 0 and .*, or -1 for"),
        (
            {"name": "lars", "weight_decay": 0.1, "weight_decay_kind": "decoupled"},
            "optim.name 'lars' requires coupled weight decay, got 'decoupled'; set "
            "optim.weight_decay_kind to 'auto' or 'coupled'",
        ),
        (
            {"name": "lamb", "weight_decay": 0.1, "weight_decay_kind": "coupled"},
            "optim.name 'lamb' requires decoupled weight decay",
        ),
        (
            {"name": "rmsprop_tf", "weight_decay": 0.1, "weight_decay_kind": "decoupled"},
            "optim.name 'rmsprop_tf' requires coupled weight decay",
        ),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        update(PARAMS, PARAMS, **options)


@pytest.mark.parametrize(
    ("scaling", "expected"), [("linear", 0.1 * 1024 / 256), ("sqrt", 0.1 * 2.0)]
)
def test_a_rate_for_a_reference_batch_size_is_scaled(scaling: str, expected: float) -> None:
    given = {"learning_rate": 0.1, "reference_batch_size": 256, "batch_scaling": scaling}
    options = plan.read({"optim": given}).optim
    assert optim.scaled_rate(options, 1024) == expected
    schedule, _ = optim.of_plan(options, total_steps=4, steps_per_epoch=2, batch_size=1024)
    assert schedule is not None
    assert schedule(0, np) == expected
    assert optim.scaled_rate(plan.Optim(learning_rate=0.1), 1024) == 0.1


def test_automatic_values_are_stored_by_the_optimizers_that_read_them() -> None:
    def stored(**given: Any) -> float:
        return optim.resolve(plan.Optim(**given)).initial_accumulator

    assert stored(name="rmsprop_tf") == 1.0
    assert stored(name="rmsprop") == 0.0
    assert stored(name="adagrad", initial_accumulator=0.5) == 0.5
    assert stored(name="sgd") == -1.0


SETTINGS: Mapping[str, Any] = {
    "model": {"name": "mlp", "widths": (4,)},
    "data": {"source": "digits"},
    "train": {"batch_size": 512, "steps": 2},
    "log": {"every_steps": 1},
}


@pytest.mark.slow
def test_a_run_prints_and_logs_the_scaled_rate(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"learning_rate": 0.1, "reference_batch_size": 128}
    outcome = train.run({**SETTINGS, "optim": given})
    printed = capsys.readouterr().err
    assert "learning rate   0.4 (linear scaling of 0.1 at batch size 128)\n" in printed
    assert outcome.history[0]["learning_rate"] == pytest.approx(0.4)


def test_a_pattern_of_rates_without_a_match_stops_a_run_before_it_starts(tmp_path: Path) -> None:
    given = {"rate_factors": (("fc", 0.1),)}
    with pytest.raises(errors.UserError, match=r"rate_factors 'fc' matches none of the 4"):
        train.run({**SETTINGS, "optim": given}, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
