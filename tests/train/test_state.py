"""Tests of the initial training state and of digests of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import optim
from cnn_jax.objectives import Classification, abstract_variables
from cnn_jax.runtime import sharding
from cnn_jax.train import state
from tests.toys import CROSS_ENTROPY, Averaged, Dense

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("state")

SHAPE = (4, 4, 1)
LAYOUT = sharding.make_layout()
OBJECTIVE = Averaged(Classification(Dense(), CROSS_ENTROPY))
ADAM = optim.make(name="adam", learning_rate=0.1, total_steps=10)


@pytest.fixture(scope="module")
def created() -> Any:
    return state.make_create(OBJECTIVE, ADAM, SHAPE, 0, LAYOUT)(None)


def test_abstract_describes_the_created_state(created: Any) -> None:
    expected = state.abstract(OBJECTIVE, ADAM, SHAPE, LAYOUT)

    def properties(leaf: Any) -> tuple[Any, ...]:
        return leaf.shape, leaf.dtype, leaf.sharding

    assert jax.tree.map(properties, created) == jax.tree.map(properties, expected)
    variables = abstract_variables(OBJECTIVE, SHAPE, LAYOUT)
    assert jax.tree.map(properties, variables) == jax.tree.map(properties, expected.variables)


def test_the_initial_state_is_a_function_of_the_seed(created: Any) -> None:
    assert int(created.step) == 0
    again, other = (
        state.make_create(OBJECTIVE, ADAM, SHAPE, seed, LAYOUT)(None) for seed in (0, 1)
    )
    assert state.sha256(again) == state.sha256(created)
    assert state.sha256(other.params) != state.sha256(created.params)


def test_a_state_starts_from_given_variables(created: Any) -> None:
    given = jax.tree.map(lambda leaf: leaf + 1.5, created.variables)
    current = state.make_create(OBJECTIVE, ADAM, SHAPE, 0, LAYOUT)(given)
    assert state.sha256(current.variables) == state.sha256(given)
    assert state.sha256(current.extra["average"]) == state.sha256(given["params"])
    paths, expected = (
        [path for path, _ in jax.tree.leaves_with_path(t)] for t in (current, created)
    )
    assert paths == expected


def test_count_adds_the_sizes_of_all_arrays(created: Any) -> None:
    assert state.count(created.params) == 2 * 16 + 16 * 5 + 5 + 5 * 3 + 3


TREE: dict[str, Any] = {
    "a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "b": {"bias": np.zeros(2, np.float32)},
}


@pytest.mark.parametrize(
    "other",
    [
        {"a": {"weight": TREE["a"]["kernel"]}, "b": TREE["b"]},
        {"a": {"kernel": TREE["a"]["kernel"].reshape(3, 2)}, "b": TREE["b"]},
        {"a": {"kernel": TREE["a"]["kernel"].astype(np.float64)}, "b": TREE["b"]},
        {"a": {"kernel": TREE["a"]["kernel"].view(np.int32)}, "b": TREE["b"]},
        {"a": {"kernel": np.nextafter(TREE["a"]["kernel"], np.float32(9))}, "b": TREE["b"]},
        {"a": TREE["a"], "b": {"bias": -TREE["b"]["bias"]}},  # Negative zero.
        {"a": TREE["a"]},
        {**TREE, "c": {"bias": np.zeros(0, np.float32)}},
    ],
    ids=["name", "shape", "type", "type alone", "last bit", "sign of zero", "fewer", "more"],
)
def test_different_trees_have_different_digests(other: dict[str, Any]) -> None:
    assert state.sha256(other) != state.sha256(TREE)


def test_equal_trees_have_equal_digests_in_any_layout_and_memory() -> None:
    digest = state.sha256(TREE)
    assert digest == state.sha256(jax.tree.map(jnp.asarray, TREE))
    assert digest == state.sha256({"b": TREE["b"], "a": TREE["a"]})
    assert digest == state.sha256({**TREE, "a": {"kernel": np.asfortranarray(TREE["a"]["kernel"])}})
    not_numbers = {"x": np.full(3, np.nan, np.float32)}
    assert state.sha256(not_numbers) == state.sha256(jax.tree.map(np.copy, not_numbers))
