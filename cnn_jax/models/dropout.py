"""Dropout and stochastic depth."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax.models import shapes


class Dropout(nn.Dropout):
    """Dropout of Flax that also runs under a mesh of Explicit axes.

    There, Flax draws a mask that is not split over the devices, and cannot apply it to an input
    that is. The random numbers are those of `flax.linen.Dropout`, and so are the attributes.
    """

    @nn.compact
    def __call__(
        self, inputs: jax.Array, deterministic: bool | None = None, rng: jax.Array | None = None
    ) -> jax.Array:
        off = nn.merge_param("deterministic", self.deterministic, deterministic)
        if off or self.rate == 0:
            return inputs
        x = jnp.asarray(inputs)
        if self.rate == 1:
            return jnp.zeros_like(x)
        key = self.make_rng(self.rng_collection) if rng is None else rng
        shared = {axis % x.ndim for axis in self.broadcast_dims}
        shape = [1 if axis in shared else size for axis, size in enumerate(x.shape)]
        sharding = shapes.explicit_sharding(x)
        split = sharding and NamedSharding(
            sharding.mesh,
            PartitionSpec(
                *(None if axis in shared else name for axis, name in enumerate(sharding.spec))
            ),
        )
        keep = jax.random.bernoulli(key, 1 - self.rate, shape, out_sharding=split)
        keep = jnp.broadcast_to(keep, x.shape, out_sharding=sharding)
        return jax.lax.select(keep, x / (1 - self.rate), jnp.zeros_like(x))


def stochastic_depth(residual: jax.Array, rate: float, *, train: bool) -> jax.Array:
    """Applies stochastic depth to a residual `[B, ...]` and returns the same shape.

    In training, each example becomes zero with probability `rate`; all others are multiplied by
    `1 / (1 - rate)`. Evaluation returns the residual unchanged; Huang et al. 2016
    (arXiv:1603.09382), section 3, scale it there instead of in training. The random numbers come
    from the PRNG stream 'dropout' of the calling module.
    """
    others = tuple(range(1, residual.ndim))
    return Dropout(rate, broadcast_dims=others, deterministic=not train)(residual)


def linear_rates(last: float, count: int) -> list[float]:
    """Returns rates of stochastic depth that rise linearly from 0 to `last` over `count` blocks.

    Huang et al. 2016, eq. 4.
    """
    return [last * index / max(count - 1, 1) for index in range(count)]
