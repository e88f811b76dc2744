"""What a run carries from step to step: arrays only, so that a checkpoint is the whole of it."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from cnn_jax.runtime import prng, sharding


class TrainState(struct.PyTreeNode):
    """Parameters and everything else that a step reads and writes.

    Attributes:
      step: how many steps were taken, int32.
      params: the trainable parameters.
      batch_stats: running statistics of normalisation layers; empty without such layers.
      opt_state: the optimizer's.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, ...],
    seed: int,
    mesh: Mesh,
) -> TrainState:
    """A fresh state, the same on any number of devices.

    Args:
      model: the network.
      optimizer: its optimizer.
      input_shape: height, width and channels of the images.
      seed: of the initial parameters.
      mesh: the devices that each get a copy.
    """

    def init() -> TrainState:
        variables = init_variables(model, input_shape, seed)
        opt_state = optimizer.init(variables["params"])
        return TrainState(step=jnp.zeros((), jnp.int32), **variables, opt_state=opt_state)

    return jax.jit(init, out_shardings=sharding.replicated(mesh))()


def init_variables(model: nn.Module, input_shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Initial parameters and running statistics, the latter empty for networks without them."""
    images = jnp.zeros((1, *input_shape), jnp.float32)
    variables = model.init(prng.stream(seed, "init"), images, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def abstract_variables(
    model: nn.Module, input_shape: tuple[int, ...], mesh: Mesh
) -> dict[str, Any]:
    """Shapes, types and shardings of a network's variables, without computing any."""
    shapes = jax.eval_shape(lambda: init_variables(model, input_shape, seed=0))
    whole = sharding.replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes
    )


def count(params: Any) -> int:
    """The number of scalar parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def sha256(params: Any) -> str:
    """A digest of names, shapes, types and bits: equal if and only if the parameters are."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(params)
    ):
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
