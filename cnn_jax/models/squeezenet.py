"""SqueezeNet: AlexNet's accuracy with a fiftieth of its parameters.

Iandola, Han, Moskewicz, Ashraf, Dally & Keutzer 2016 (arXiv:1602.07360), Table 1: `squeezenet1_0`,
1,248,424 parameters for 1000 classes. `squeezenet1_1` is the authors' later network
(github.com/forresti/SqueezeNet), which pools earlier and computes 2.4 times less: 1,235,496.

Departures from the paper: conv1 is not padded, so that 224 pixels leave 109 of the table's 111; the
authors' own definition takes images of 227. All weights but conv10's start from He's normal
distribution.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers

# The squeezing channels of fire2 to fire9; each expands to eight times as many.
SQUEEZE = (16, 16, 32, 32, 48, 48, 64, 64)


class Fire(nn.Module):
    """1x1 kernels that squeeze, then 1x1 and 3x3 kernels side by side that expand (Fig. 1).

    `[B, H, W, C_in]` to `[B, H, W, 8 squeeze]`.
    """

    squeeze: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(layers.Conv, dtype=self.dtype)
        x = nn.relu(conv(self.squeeze, (1, 1), name="squeeze1x1")(x))
        expanded = (
            conv(4 * self.squeeze, (1, 1), name="expand1x1")(x),
            conv(4 * self.squeeze, (3, 3), padding=1, name="expand3x3")(x),
        )
        return nn.relu(jnp.concatenate(expanded, axis=-1))


class SqueezeNet(nn.Module):
    """A convolution, eight fire modules, and a 1x1 convolution to the classes, averaged.

    Attributes:
      num_classes: channels of conv10.
      conv1: its channels and the size of its kernels.
      pooled: the layers, by number, that a pooling follows.
      dropout_rate: before conv10.
      dtype: what is computed in.
    """

    num_classes: int
    conv1: tuple[int, int]
    pooled: tuple[int, ...]
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        channels, size = self.conv1
        # conv1 has to leave 2^3 pixels, of which three poolings that round up make one.
        layers.check_image_size(images, 14 + size, "squeezenet")
        conv1 = layers.Conv(channels, (size, size), stride=2, dtype=self.dtype, name="conv1")
        x = self._pool(1, layers.feature(self, "conv1", nn.relu(conv1(images))))
        for number, squeeze in enumerate(SQUEEZE, 2):
            x = Fire(squeeze, dtype=self.dtype, name=f"fire{number}")(x)
            x = self._pool(number, layers.feature(self, f"fire{number}", x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)  # [B, 13, 13, 512] for 224
        conv10 = layers.Conv(
            self.num_classes,
            (1, 1),
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="conv10",
        )
        return layers.as_logits(ops.global_avg_pool(nn.relu(conv10(x))))

    def _pool(self, number: int, x: jax.Array) -> jax.Array:
        if number not in self.pooled:
            return x
        return ops.max_pool(x, 3, stride=2, ceil_mode=True)


VARIANTS = {
    "squeezenet1_0": layers.Variant(
        partial(SqueezeNet, conv1=(96, 7), pooled=(1, 4, 8)), (224, 224, 3)
    ),
    "squeezenet1_1": layers.Variant(
        partial(SqueezeNet, conv1=(64, 3), pooled=(1, 3, 5)), (224, 224, 3)
    ),
}
