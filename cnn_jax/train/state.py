"""The initial training state, its shapes, and digests of parameters."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import objectives
from cnn_jax.contracts import Objective, TrainState, Variables
from cnn_jax.runtime import prng
from cnn_jax.runtime.sharding import Layout

Create = Callable[[Variables | None], TrainState]
"""Returns the state before the first step. The argument has parameters and running statistics to
start from, and the variables of a teacher where the run has one; None for initial ones."""


def make_create(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, ...],
    seed: int,
    layout: Layout,
) -> Create:
    """Returns the jitted function `(given variables or None) -> TrainState` of initial states.

    Their values do not depend on the number of devices.

    Args:
      objective: the objective.
      optimizer: its optimizer.
      input_shape: height, width and channels of the images.
      seed: the seed of the initial parameters.
      layout: the devices and the layout of the state on them.
    """

    def init(given: Variables | None) -> TrainState:
        return _init(objective, optimizer, input_shape, seed, given)

    return jax.jit(init, out_shardings=layout.of(jax.eval_shape(init, None)))


def abstract(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, ...],
    layout: Layout,
) -> TrainState:
    """Returns shapes, dtypes and shardings of the state, without computing any of it."""
    shapes = jax.eval_shape(lambda: _init(objective, optimizer, input_shape, 0, None))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        layout.of(shapes),
    )


def count(params: Any) -> int:
    """Returns the number of scalar parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def sha256(params: Any) -> str:
    """Returns a digest of names, shapes, dtypes and bits: equal trees have equal digests."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(params)
    ):
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _init(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, ...],
    seed: int,
    given: Variables | None,
) -> TrainState:
    key = prng.stream(seed, "init")
    params, batch_stats, extra = objective.init(key, objectives.init_batch(input_shape), given)
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, batch_stats, optimizer.init(params), extra)
