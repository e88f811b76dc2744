"""Tests of the keys by which runs of one process share their compiled functions."""

import sys
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import errors, models, ops, plan
from cnn_jax.contracts import Description
from cnn_jax.models import registry
from cnn_jax.runtime import sharding
from cnn_jax.train import programs
from cnn_jax.train.given import Given
from tests.toys import Own

DESCRIPTION = Description(("a", "b"), (8, 8), (8, 8, 1), (0.0,), (1.0,))


def key(changes: dict[str, Any]) -> Any:
    return programs.key(plan.read(changes), DESCRIPTION, sharding.make_layout(), Given())


def define() -> type[nn.Module]:
    class Again(Own):
        pass

    return Again


def test_rates_and_places_share_programs_and_other_keys_do_not() -> None:
    first = key({})
    assert key({"optim.learning_rate": 0.5, "train.epochs": 3.0, "data.directory": "x"}) == first
    assert key({"train.batch_size": 7}) != first


def test_a_network_that_is_registered_again_is_compiled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})
    models.register("again", define(), (8, 8, 1))
    first = key({"model.name": "again"})
    assert key({"model.name": "again"}) == first
    models.register("again", define(), (8, 8, 1))
    assert key({"model.name": "again"}) != first


def test_another_lowering_is_compiled_again() -> None:
    first = key({})
    with ops.lowering("plain"):
        assert key({}) != first


def test_long_arrays_in_options_are_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("users_losses")

    def loss(outputs: Any, batch: Any, weights: Any) -> Any:
        return jnp.zeros(len(batch["label"]))

    vars(module)["loss"] = loss
    monkeypatch.setitem(sys.modules, "users_losses", module)
    weights = np.ones(2000, np.float32)
    first = key({"loss.name": "users_losses:loss", "loss.options": {"weights": weights}})
    weights[1000] = 0
    assert key({"loss.name": "users_losses:loss", "loss.options": {"weights": weights}}) != first


def test_options_that_no_file_can_hold_are_refused() -> None:
    message = "model.norm must be of texts, numbers, .*, got function"
    with pytest.raises(errors.UserError, match=message):
        plan.read({"model.norm": lambda x: x})
