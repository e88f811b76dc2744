"""Test of training in bfloat16: the state and the loss stay in float32.

`tests/test_models.py` tests logits and running statistics of every network, and
`test_transformations.py` the gradients of every family.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import models, optim
from cnn_jax.objectives import Classification
from cnn_jax.runtime import sharding
from cnn_jax.train import state, step
from tests.models.test_structure import CASES
from tests.toys import CROSS_ENTROPY

SHAPE, STEPS = (8, 8, 3), 2


def batch_of_step(inputs: Any, index: jax.Array | int, key: jax.Array) -> Any:
    del index, key
    return inputs


def test_a_step_in_bfloat16_keeps_the_state_and_the_loss_in_float32() -> None:
    model = models.create("resnet18", num_classes=10, dtype="bfloat16", **CASES["resnet18"][1])
    objective = Classification(model, CROSS_ENTROPY)
    rule = optim.make(name="adamw", learning_rate=0.1, weight_decay=0.1, clip_norm=1.0)
    layout = sharding.make_layout()
    take_steps = step.make_train_steps(
        objective, rule, batch_of_step, seed=0, steps_per_call=STEPS, layout=layout
    )
    before = state.abstract(objective, rule, SHAPE, layout)
    batch = {
        "image": jax.ShapeDtypeStruct((4, *SHAPE), jnp.float32),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((4,), jnp.float32),
    }
    after, sums = jax.eval_shape(take_steps, before, batch, STEPS, np.ones(STEPS, np.float32))
    assert dtypes(after) == dtypes(before)
    floats = {jnp.dtype("float32"), jnp.dtype("int32")}
    assert set(jax.tree.leaves(dtypes(after))) <= floats
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.batch_stats))} == {
        jnp.dtype("float32")
    }
    assert {leaf.dtype for leaf in sums["loss"]} == {jnp.dtype("float32")}


def dtypes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.dtype, tree)
