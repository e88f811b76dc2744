"""SqueezeNet: AlexNet's accuracy with 50 times fewer parameters.

Iandola, Han, Moskewicz, Ashraf, Dally & Keutzer 2016 (arXiv:1602.07360), Table 1: `squeezenet1_0`
has 1,248,424 parameters for 1000 classes. `squeezenet1_1` is the authors' later network
(github.com/forresti/SqueezeNet). It pools earlier, needs 2.4 times less computation, and has
1,235,496 parameters.

Departures from the paper: conv1 has no padding. For 224x224 images its output has 109x109 pixels;
Table 1 states 111x111, which the authors' own definition reaches with 227x227 images. Their 1.0
pads conv10 by one pixel, which Table 1, their 1.1 and torchvision do not. Max-pooling rounds up, as
in Caffe and torchvision. The initialisation is He normal, in the authors' definition Xavier; that
of conv10 is theirs.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers
from cnn_jax.models.dropout import Dropout

# Channels of the squeeze layers of fire2 to fire9. The expand layers have eight times as many.
SQUEEZE = (16, 16, 32, 32, 48, 48, 64, 64)


class Fire(nn.Module):
    """Fire module (Fig. 1), `[B, H, W, C]` to `[B, H, W, 8 squeeze]`.

    A 1x1 squeeze convolution is followed by parallel 1x1 and 3x3 expand convolutions, whose outputs
    are concatenated.

    Attributes:
      squeeze: channels of the squeeze convolution.
      dtype: dtype of the computation.
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
    """SqueezeNet: a convolution, eight fire modules, a 1x1 convolution, global average pooling.

    Attributes:
      num_classes: the number of logits, which are the averaged channels of conv10.
      conv1: channels and kernel size of conv1.
      pooled: numbers of the layers followed by max-pooling; 1 is conv1, 2 is fire2.
      dropout_rate: rate of the dropout before conv10.
      remat: whether the backward pass recomputes each fire module instead of storing its
        activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    conv1: tuple[int, int]
    pooled: tuple[int, ...]
    dropout_rate: float = 0.5
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        channels, size = self.conv1
        # conv1 must leave at least 8 pixels: each of the three poolings in ceil mode halves them.
        layers.check_image_size(images, 14 + size, "squeezenet")
        conv1 = layers.Conv(channels, (size, size), stride=2, dtype=self.dtype, name="conv1")
        x = self._pool(1, layers.feature(self, "conv1", nn.relu(conv1(images))))
        for number, squeeze in enumerate(SQUEEZE, 2):
            fire = layers.remat(Fire, self.remat)
            x = fire(squeeze, dtype=self.dtype, name=f"fire{number}")(x)
            x = self._pool(number, layers.feature(self, f"fire{number}", x))
        x = Dropout(self.dropout_rate, deterministic=not train)(x)  # [B, 13, 13, 512] for 224
        if not self.num_classes:
            return layers.as_logits(ops.global_avg_pool(x))
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
