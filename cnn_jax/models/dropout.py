"""Dropout, DropConnect, stochastic depth and stochastic pooling."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax import errors, ops
from cnn_jax.models import shapes
from cnn_jax.ops.channels import per_channel


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


class DropConnect(nn.Dense):
    """Dense layer with DropConnect, `[B, C]` to `[B, features]`.

    In training, each weight and each bias becomes zero with probability `rate`, and all others are
    divided by `1 - rate`. Each example has its own random mask. Evaluation is that of a dense
    layer. Wan et al. 2013 (PMLR 28(3):1058-1066), section 3; `ops.drop_connect` lists the
    departures. The masked weights take `B C features` numbers of memory in training.

    Parameters: `kernel` `[C, features]` and `bias` `[features]`.

    Attributes:
      rate: probability in [0, 1) of a zero.
      deterministic: True in evaluation.
    """

    rate: float = 0.0
    deterministic: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        batch, channels = inputs.shape
        shape = (channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape[1:], self.param_dtype)
        x, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        if self.deterministic or self.rate == 0:
            return x @ kernel + per_channel(bias, x)
        drop = Dropout(self.rate, deterministic=False)
        split = shapes.batch_sharding(x)
        kernels, biases = (
            drop(jnp.broadcast_to(one, (batch, *one.shape), out_sharding=split))
            for one in (kernel, bias)
        )
        return jnp.einsum("bc,bcf->bf", x, kernels) + biases


def dense(rate: float, *, train: bool) -> Callable[..., nn.Module]:
    """Returns the dense layer to construct: `DropConnect` if `rate` is not 0, else `nn.Dense`."""
    return partial(DropConnect, rate=rate, deterministic=not train) if rate else nn.Dense


class StochasticPool(nn.Module):
    """Stochastic pooling as a layer, `[B, H, W, C]` to `[B, H', W', C]`; see `ops.stochastic_pool`.

    The random numbers come from the PRNG stream 'dropout'.

    Attributes:
      window: height and width of the windows in pixels.
      stride: vertical and horizontal stride in pixels; `window` by default.
      ceil_mode: see `ops.max_pool`.
      deterministic: True in evaluation.
    """

    window: int
    stride: int | None = None
    ceil_mode: bool = False
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        key = None if self.deterministic else self.make_rng("dropout")
        return ops.stochastic_pool(x, self.window, self.stride, key=key, ceil_mode=self.ceil_mode)


def check_pooling(stochastic: bool, activation: str) -> None:
    """Checks that the inputs of stochastic pooling are not negative.

    Args:
      stochastic: whether a network has stochastic pooling.
      activation: name of the activation function before it.

    Raises:
      UserError: `stochastic` is True, and the activation function has negative values.
    """
    if stochastic and activation == "tanh":
        raise errors.UserError(
            "model.stochastic_pooling needs activations that are not negative; set "
            "model.activation to 'relu' or 'sigmoid', got 'tanh'"
        )


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
