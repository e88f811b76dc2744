"""Checkpoints of small states, for the tests of checkpoints."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax import optim
from cnn_jax.contracts import TrainState
from cnn_jax.objectives import Classification
from cnn_jax.runs import checkpoint
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runtime import sharding
from cnn_jax.train import state
from tests.toys import CROSS_ENTROPY, Averaged, Dense

SHAPE = (4, 4, 1)
LAYOUT = sharding.make_layout()
ADAM = optim.make(name="adam", learning_rate=0.1, total_steps=10)
SGD = optim.make(name="sgd", learning_rate=0.1, total_steps=10)
PLAIN = Classification(Dense(), CROSS_ENTROPY)
AVERAGED = Averaged(PLAIN)
PENDING = {"loss": (0.1 + 0.2, 3.0), "top1": (1e-30, 7.0)}


@functools.cache
def abstract(objective: Any = PLAIN, optimizer: Any = ADAM) -> TrainState:
    return state.abstract(objective, optimizer, SHAPE, LAYOUT)


def state_at(step: int, objective: Any = PLAIN) -> TrainState:
    """Returns a state of random values that depend on `step`, some of them special."""
    rng = np.random.default_rng(step)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if np.issubdtype(leaf.dtype, np.integer):
            return np.full(leaf.shape, step, leaf.dtype)
        values = rng.normal(size=leaf.shape).astype(leaf.dtype)
        values.flat[:3] = (-0.0, 1e-42, np.inf)
        return values

    return sharding.replicate(jax.tree.map(draw, abstract(objective)), LAYOUT)


def write(
    directory: Path, ranks: Sequence[float | None], keep: int = 2, monitor: str = "top1"
) -> list[int]:
    """Saves steps 1, 2, … with these ranks and returns the steps that are kept."""
    checkpoints = Checkpoints(directory, keep, monitor)
    for step, rank in enumerate(ranks, start=1):
        checkpoints.save(step, state_at(step), PENDING, rank)
    checkpoints.close()
    return checkpoint.steps(directory)


def assert_is_step(restored: checkpoint.Restored[Any] | None, step: int) -> None:
    """Checks every bit of the state and every pending number."""
    assert restored is not None
    assert int(restored.state.step) == step
    assert state.sha256(restored.state) == state.sha256(state_at(step))
    assert restored.pending == PENDING
