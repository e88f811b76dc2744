"""Independent PRNG keys from the one seed of a run."""

from typing import Literal

import jax

_STREAMS = ("init", "order", "step")


def for_step(seed: int, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Returns the two keys of a training step: for augmentation, and for the network's dropout."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(stream(seed, "step"), step))
    return augment_key, dropout_key


def stream(seed: int, name: Literal["init", "order", "step"]) -> jax.Array:
    """Returns the key of a stream; fold the epoch or the step into it to get the key of each."""
    return jax.random.fold_in(jax.random.key(seed), _STREAMS.index(name))
