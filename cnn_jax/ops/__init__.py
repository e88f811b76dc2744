"""Pure functions on arrays that the networks are built from."""

from cnn_jax.ops.pool import avg_pool, max_pool

__all__ = ["avg_pool", "max_pool"]
