"""Wide residual networks for CIFAR.

Zagoruyko & Komodakis 2016, 'Wide Residual Networks', BMVC (arXiv:1605.07146), Table 1 with the
block of Fig. 1(d). `wrn_16_8`, `wrn_28_10` and `wrn_40_4` are named by depth and width, as in the
paper. They have 10,961,370, 36,479,194 and 8,949,210 parameters for ten classes. The wide networks
for ImageNet have bottlenecks and are in `resnet`.

Departures from the paper: none. Two details are from the authors' code
(github.com/szagoruyko/wide-residual-networks, models/wide-resnet.lua and utils.lua). The shortcut
of a block that changes the number of channels is a 1x1 convolution of the normalised and activated
input. The initialisation of convolutions is He normal with the fan-in.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors, ops
from cnn_jax.models import layers
from cnn_jax.models.dropout import Dropout


class WideResNet(nn.Module):
    """Wide ResNet: a 3x3 convolution, three stages of pre-activation blocks, a dense layer.

    Attributes:
      num_classes: the number of logits.
      depth: number of convolutions, 6 n + 4 for n blocks in each stage: the first one, two in each
        block, and one in the shortcut of each stage's first block.
      width: width multiplier of the 16, 32 and 64 channels of the three stages.
      dropout_rate: rate of the dropout between the convolutions of each block.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      ValueError: `depth` is not 6 n + 4 for a positive integer n.
    """

    num_classes: int
    depth: int
    width: int
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        size, rest = divmod(self.depth - 4, 6)
        if size < 1 or rest:
            raise errors.UserError(
                f"model.depth must be 6 n + 4, such as 10, 16, 22 or 28, got {self.depth}"
            )
        conv = partial(
            layers.Conv,
            padding="HALF",
            use_bias=False,
            kernel_init=layers.he_normal,
            dtype=self.dtype,
        )
        norm = layers.batch_norm(train=train, dtype=self.dtype)
        dropout = partial(Dropout, self.dropout_rate, deterministic=not train)
        x = layers.feature(self, "stem", conv(16, (3, 3), name="conv1")(images))
        for stage in (1, 2, 3):
            for index in range(size):
                x = layers.remat(Block, self.remat)(
                    channels=self.width * 2 ** (stage + 3),
                    stride=2 if stage > 1 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    dropout=dropout,
                    name=f"conv{stage + 1}_{index}",
                )(x)
            layers.feature(self, f"stage{stage}", x)
        x = ops.global_avg_pool(nn.relu(norm(name="bn")(x)))  # [B, 64 width]
        head = partial(nn.Dense, dtype=self.dtype, name="fc")
        return layers.logits(x, self.num_classes, head)


class Block(nn.Module):
    """Pre-activation block: two 3x3 convolutions and a shortcut.

    Normalisation and ReLU precede each convolution. Maps `[B, H, W, C]` to
    `[B, H / stride, W / stride, channels]`.

    Attributes:
      channels: channels of the result.
      stride: stride of the first convolution and of the shortcut.
      conv: builds a convolution; takes features, kernel size and stride.
      norm: builds a normalisation in training or evaluation mode; takes a name.
      dropout: builds a dropout in training or evaluation mode.
    """

    channels: int
    stride: int
    conv: layers.ModuleDef
    norm: layers.ModuleDef
    dropout: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="bn1")(x))
        if x.shape[-1] != self.channels:
            x = self.conv(self.channels, (1, 1), self.stride, name="shortcut")(y)
        y = self.conv(self.channels, (3, 3), self.stride, name="conv1")(y)
        y = self.dropout()(nn.relu(self.norm(name="bn2")(y)))
        return x + self.conv(self.channels, (3, 3), name="conv2")(y)


def _variant(depth: int, width: int) -> layers.Variant:
    return layers.Variant(partial(WideResNet, depth=depth, width=width), (32, 32, 3))


VARIANTS = {
    "wrn_16_8": _variant(16, 8),
    "wrn_28_10": _variant(28, 10),
    "wrn_40_4": _variant(40, 4),
}
