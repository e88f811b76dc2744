"""ShuffleNet v2.

Ma, Zhang, Zheng & Sun 2018, 'ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design' (arXiv:1807.11164), Table 5, with the blocks of Fig. 3 (c) and (d). `shufflenet_v2_x1_0` has
2,278,604 parameters for 1000 classes, as in torchvision. The suffix is the width multiplier: `x1_5`
means 1.5.

Departures from the paper: none. The paper does not state the initialisation; here it is He normal.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors, ops
from cnn_jax.models import layers

DEPTHS = (4, 8, 4)  # units in stages 2 to 4


class ShuffleNetV2(nn.Module):
    """ShuffleNet v2: a 3x3 convolution, max-pooling, three stages of units, a 1x1 convolution.

    Attributes:
      num_classes: the number of logits.
      widths: channels of the first convolution, of each stage, and of the last convolution.
      remat: whether the backward pass recomputes each unit instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: `widths` does not fit the stages.
    """

    num_classes: int
    widths: tuple[int, ...] = (24, 116, 232, 464, 1024)
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_stages(widths=self.widths)
        if len(self.widths) != len(DEPTHS) + 2 or any(width % 2 for width in self.widths[1:-1]):
            raise errors.UserError(
                f"model.widths must hold {len(DEPTHS) + 2} numbers: of the first convolution, even "
                f"ones of the stages with {DEPTHS} units, and of the last convolution; got "
                f"{self.widths!r}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        first, *widths, last = self.widths
        norm = layers.batch_norm(train=train, dtype=self.dtype)
        conv = partial(layers.ConvNorm, norm=norm, padding="HALF", dtype=self.dtype)
        x = layers.feature(self, "stem", conv(first, (3, 3), stride=2, name="conv1")(images))
        x = ops.max_pool(x, 3, 2, padding=1)
        downsampling, unit = (layers.remat(kind, self.remat) for kind in (Downsampling, Unit))
        for stage, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), 2):
            x = downsampling(width, conv, name=f"stage{stage}_0")(x)
            for index in range(1, depth):
                x = unit(conv, name=f"stage{stage}_{index}")(x)
            layers.feature(self, f"stage{stage}", x)
        x = layers.feature(self, "head", conv(last, (1, 1), name="conv5")(x))
        x = ops.global_avg_pool(x)  # [B, C]
        head = partial(nn.Dense, dtype=self.dtype, name="fc")
        return layers.logits(x, self.num_classes, head)


class Unit(nn.Module):
    """Unit of stride 1 (Fig. 3 c), `[B, H, W, C]` to the same shape.

    Half of the channels pass unchanged, the other half pass through a branch of convolutions. A
    channel shuffle combines both halves.
    """

    conv: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kept, changed = jnp.split(x, 2, axis=-1)
        return channel_shuffle(kept, _branch(changed, kept.shape[-1], 1, self.conv))


class Downsampling(nn.Module):
    """Unit of stride 2 (Fig. 3 d), `[B, H, W, C]` to `[B, H / 2, W / 2, features]`."""

    features: int
    conv: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _depthwise("branch1", x, 2, self.conv)
        y = self.conv(self.features // 2, (1, 1), name="branch1_last")(y)
        return channel_shuffle(y, _branch(x, self.features // 2, 2, self.conv))


def channel_shuffle(left: jax.Array, right: jax.Array) -> jax.Array:
    """Interleaves the channels of two arrays `[B, H, W, C]` into `[B, H, W, 2 C]`, left first."""
    *shape, channels = left.shape
    return jnp.stack([left, right], axis=-1).reshape(*shape, 2 * channels)


def _branch(x: jax.Array, features: int, stride: int, conv: layers.ModuleDef) -> jax.Array:
    """Applies 1x1, depthwise and 1x1 convolutions as children of the calling module."""
    y = conv(features, (1, 1), name="branch2_first")(x)
    y = _depthwise("branch2", y, stride, conv)
    return conv(features, (1, 1), name="branch2_last")(y)


def _depthwise(branch: str, x: jax.Array, stride: int, conv: layers.ModuleDef) -> jax.Array:
    """Applies the depthwise 3x3 convolution `{branch}_depthwise` and a normalisation.

    Args:
      branch: the name of the block's branch.
      x: `[B, H, W, C]`.
      stride: the stride of the convolution.
      conv: `layers.ConvNorm` with the settings of the network.
    """
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
