"""Network in Network.

Lin, Chen & Yan 2013 (arXiv:1312.4400), Fig. 2; the paper leaves the widths open, these are those
of the authors' Caffe definitions: 966,986 parameters for CIFAR-10, 7,595,176 for ImageNet.

Departures from the paper: weights start from He's normal distribution.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers


class Block(NamedTuple):
    """An MLP convolution: one convolution, then a small dense network at every pixel (Fig. 1).

    Attributes:
      widths: channels of the convolution and of those of 1x1; the last block's classes come on top.
      kernel_size: height and width of the first one.
      stride: of the first one.
      padding: of the first one.
      pool: max or avg, over 3x3 pixels with stride 2, rounding up; or global.
      dropout: whether some of what leaves it is dropped.
    """

    widths: tuple[int, ...]
    kernel_size: int
    stride: int
    padding: int
    pool: str
    dropout: bool


_POOLS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "max": partial(ops.max_pool, window=3, stride=2, ceil_mode=True),
        "avg": partial(ops.avg_pool, window=3, stride=2, ceil_mode=True),
        "global": ops.global_avg_pool,
    }
)
_CIFAR = (
    Block((192, 160, 96), 5, 1, 2, "max", dropout=True),
    Block((192, 192, 192), 5, 1, 2, "avg", dropout=True),
    Block((192, 192), 3, 1, 1, "global", dropout=False),
)
_IMAGENET = (
    Block((96, 96, 96), 11, 4, 0, "max", dropout=False),
    Block((256, 256, 256), 5, 1, 2, "max", dropout=False),
    Block((384, 384, 384), 3, 1, 1, "max", dropout=True),
    Block((1024, 1024), 3, 1, 1, "global", dropout=False),
)


class NiN(nn.Module):
    """MLP convolutions with pooling after each; the last channels are the classes."""

    num_classes: int
    blocks: tuple[Block, ...]
    min_image_size: int  # below this nothing is left of the image
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        layers.check_image_size(images, self.min_image_size, "nin")
        x = images
        for number, block in enumerate(self.blocks, 1):
            classes = (self.num_classes,) if block.pool == "global" else ()
            for depth, width in enumerate(block.widths + classes):
                size, stride, padding = (1, 1, 0) if depth else block[1:4]
                conv = layers.Conv(
                    width,
                    (size, size),
                    stride,
                    padding,
                    dtype=self.dtype,
                    name=f"cccp{number}_{depth}" if depth else f"conv{number}",
                )
                x = nn.relu(conv(x))
            x = _POOLS[block.pool](layers.feature(self, f"stage{number}", x))
            if block.dropout:
                x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return layers.as_logits(x)


VARIANTS = {
    "nin": layers.Variant(partial(NiN, blocks=_IMAGENET, min_image_size=55), (224, 224, 3)),
    "nin_cifar": layers.Variant(partial(NiN, blocks=_CIFAR, min_image_size=6), (32, 32, 3)),
}
