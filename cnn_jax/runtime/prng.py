"""Independent PRNG keys from the one seed of a run."""

from typing import Literal, SupportsIndex

import jax
import jax.numpy as jnp

from cnn_jax.runtime import seeds

_STREAMS = ("init", "order", "step")


def key(seed: SupportsIndex) -> jax.Array:
    """Returns the key of all 64 bits of a seed, as `jax.random.key` does under `jax_enable_x64`.

    Without that option, `jax.random.key` leaves out the upper 32 bits.

    Raises:
      UserError: the seed is no integer from 0 to 2**64 - 1.
    """
    pair = jnp.array(seeds.words(seeds.check(seed)), jnp.uint32)
    # A key of the implementation 'rbg' has the two words twice.
    length = jax.random.key_data(jax.random.key(0)).shape[-1]
    return jax.random.wrap_key_data(jnp.tile(pair, length // 2))


def for_step(seed: int, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Returns the two keys of a training step: for augmentation, and for the network's dropout."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(stream(seed, "step"), step))
    return augment_key, dropout_key


def stream(seed: int, name: Literal["init", "order", "step"]) -> jax.Array:
    """Returns the key of a stream; fold the epoch or the step into it to get the key of each."""
    return jax.random.fold_in(key(seed), _STREAMS.index(name))
