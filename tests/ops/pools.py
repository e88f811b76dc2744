"""Pooling operations by kind, and forms of their arguments, for the tests of pooling."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import ops

Pair = int | tuple[int, int]
# The docstring of `ops.pool` states what holds in the primitives and what holds elsewhere.
ON_CPU = jax.default_backend() == "cpu"

POOLS: Mapping[str, tuple[Any, Any, float]] = {
    "max": (ops.max_pool, np.max, -np.inf),
    "avg": (ops.avg_pool, np.mean, 0.0),
}

each_pool = pytest.mark.parametrize("kind", POOLS)


def exact_modes(kind: str) -> list[str]:
    """Returns the modes of differentiation that are exact in float64."""
    return ["fwd", "rev"] if kind == "avg" or ON_CPU else ["rev"]


def pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
