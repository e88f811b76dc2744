"""ShuffleNet v2.

Ma, Zhang, Zheng & Sun 2018, 'ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design' (arXiv:1807.11164), Table 5, with the blocks of Fig. 3 (c) and (d): 2,278,604 parameters for
`shufflenet_v2_x1_0` and 1000 classes, as in torchvision. What follows the `x` scales the channels.

Departures from the paper: none. It says nothing of how weights start; here they do from He's normal
distribution.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers

DEPTHS = (4, 8, 4)  # units in stages 2 to 4


class ShuffleNetV2(nn.Module):
    """A convolution, a pooling, three stages of units, a 1x1 convolution and the classifier.

    Attributes:
      num_classes: the number of logits.
      widths: channels of the first convolution, of each stage, and of the last convolution.
      dtype: what is computed in.
    """

    num_classes: int
    widths: tuple[int, ...] = (24, 116, 232, 464, 1024)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        first, *widths, last = self.widths
        norm = layers.batch_norm(train=train, dtype=self.dtype)
        conv = partial(layers.ConvNorm, norm=norm, padding="HALF", dtype=self.dtype)
        x = layers.feature(self, "stem", conv(first, (3, 3), stride=2, name="conv1")(images))
        x = ops.max_pool(x, 3, 2, padding=1)
        for stage, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), 2):
            x = Downsampling(width, conv, name=f"stage{stage}_0")(x)
            for index in range(1, depth):
                x = Unit(conv, name=f"stage{stage}_{index}")(x)
            layers.feature(self, f"stage{stage}", x)
        x = layers.feature(self, "head", conv(last, (1, 1), name="conv5")(x))
        x = ops.global_avg_pool(x)  # [B, C]
        return layers.as_logits(nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x))


class Unit(nn.Module):
    """Half of the channels as they are, the other half through a branch (Fig. 3 c)."""

    conv: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kept, changed = jnp.split(x, 2, axis=-1)
        return shuffled(kept, _branch(changed, kept.shape[-1], 1, self.conv))


class Downsampling(nn.Module):
    """Two branches that halve the image, `[B, H, W, C]` to `[B, H / 2, W / 2, features]` (d)."""

    features: int
    conv: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _depthwise("branch1", x, 2, self.conv)
        y = self.conv(self.features // 2, (1, 1), name="branch1_last")(y)
        return shuffled(y, _branch(x, self.features // 2, 2, self.conv))


def shuffled(left: jax.Array, right: jax.Array) -> jax.Array:
    """Their channels in turns, twice `[B, H, W, C]` to `[B, H, W, 2 C]`: the channel shuffle."""
    *shape, channels = left.shape
    return jnp.stack([left, right], axis=-1).reshape(*shape, 2 * channels)


def _branch(x: jax.Array, features: int, stride: int, conv: layers.ModuleDef) -> jax.Array:
    """1x1, depthwise and 1x1 convolutions, children of the module that calls this."""
    y = conv(features, (1, 1), name="branch2_first")(x)
    y = _depthwise("branch2", y, stride, conv)
    return conv(features, (1, 1), name="branch2_last")(y)


def _depthwise(branch: str, x: jax.Array, stride: int, conv: layers.ModuleDef) -> jax.Array:
    """A 3x3 convolution of each channel by itself, without an activation."""
    channels = x.shape[-1]
    return conv(
        channels,
        (3, 3),
        stride=stride,
        groups=channels,
        activation=jax.nn.identity,
        name=f"{branch}_depthwise",
    )(x)


def _variant(*widths: int) -> layers.Variant:
    return layers.Variant(partial(ShuffleNetV2, widths=widths), (224, 224, 3))


VARIANTS = {
    "shufflenet_v2_x0_5": _variant(24, 48, 96, 192, 1024),
    "shufflenet_v2_x1_0": _variant(24, 116, 232, 464, 1024),
    "shufflenet_v2_x1_5": _variant(24, 176, 352, 704, 1024),
    "shufflenet_v2_x2_0": _variant(24, 244, 488, 976, 2048),
}
