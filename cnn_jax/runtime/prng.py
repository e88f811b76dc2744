"""Independent streams of random numbers from the one seed of a run."""

from typing import Literal

import jax

_STREAMS = ("init", "order", "step")


def for_step(seed: int, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The keys of one training step: of its augmentation, and of dropout."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(stream(seed, "step"), step))
    return augment_key, dropout_key


def stream(seed: int, name: Literal["init", "order", "step"]) -> jax.Array:
    """The key of a stream; fold an epoch or a step into it for what changes."""
    return jax.random.fold_in(jax.random.key(seed), _STREAMS.index(name))
