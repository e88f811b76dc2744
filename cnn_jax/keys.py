"""Independent streams of random numbers from the one seed of a run."""

from typing import Literal

import jax

_STREAMS = ("init", "order", "step")


def stream(seed: int, name: Literal["init", "order", "step"]) -> jax.Array:
    """The key of a stream; fold an epoch or a step into it for what changes."""
    return jax.random.fold_in(jax.random.key(seed), _STREAMS.index(name))
