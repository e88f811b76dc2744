"""Network in Network.

Lin, Chen & Yan 2013 (arXiv:1312.4400), Fig. 2. The paper does not state the widths; these are from
the authors' Caffe definitions. `nin_cifar` has 966,986 parameters for CIFAR-10, `nin` has 7,595,176
for ImageNet. The sizes of pooled maps are rounded up, as in Caffe.

The second pooling of `nin_cifar` takes means, as in the Torch network of Zagoruyko
(github.com/szagoruyko/wide-residual-networks, models/nin.lua). The authors' cuda-convnet file
(github.com/mavenlin/cuda-convnet, NIN/cifar-10_def) takes maxima.

Departures from the paper: the initialisation is He normal; in the authors' cuda-convnet file it is
normal with a standard deviation of 0.05.
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
from cnn_jax.models.dropout import Dropout


class Block(NamedTuple):
    """MLP convolution (Fig. 1): a convolution, 1x1 convolutions, and a pooling.

    Attributes:
      widths: channels of each convolution. The last block has a further 1x1 convolution with
        `num_classes` channels.
      kernel_size: height and width of the first convolution's kernel, in pixels.
      stride: stride of the first convolution.
      padding: padding of the first convolution, in pixels.
      pool: 'max' or 'avg' for 3x3 windows with stride 2 in ceil mode, or 'global' for the mean over
        all pixels.
      dropout: if True, dropout follows the pooling.
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
    """Network in Network: MLP convolutions whose last channels are the classes.

    Attributes:
      num_classes: the number of logits.
      blocks: MLP convolutions in order.
      min_image_size: smallest height and width in pixels. Smaller images have no pixels left.
      dropout_rate: rate of the dropout of the blocks with dropout.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    blocks: tuple[Block, ...]
    min_image_size: int
    dropout_rate: float = 0.5
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, self.min_image_size, "nin")
        x = images
        for number, block in enumerate(self.blocks, 1):
            apply = layers.remat(partial(NiN._block, number=number), self.remat)
            x = _POOLS[block.pool](layers.feature(self, f"stage{number}", apply(self, x)))
            if block.dropout:
                x = Dropout(self.dropout_rate, deterministic=not train)(x)
        return layers.as_logits(x)

    def _block(self, x: jax.Array, *, number: int) -> jax.Array:
        """Applies the convolutions of block `number`, counted from 1."""
        block = self.blocks[number - 1]
        has_classes = block.pool == "global" and self.num_classes > 0
        classes = (self.num_classes,) if has_classes else ()
        for depth, width in enumerate(block.widths + classes):
            size, stride, padding = (1, 1, 0) if depth else block[1:4]
            # cccp: cascaded cross channel parametric pooling, the paper's 1x1 convolutions.
            conv = layers.Conv(
                width,
                (size, size),
                stride,
                padding,
                dtype=self.dtype,
                name=f"cccp{number}_{depth}" if depth else f"conv{number}",
            )
            x = nn.relu(conv(x))
        return x


VARIANTS = {
    "nin": layers.Variant(partial(NiN, blocks=_IMAGENET, min_image_size=55), (224, 224, 3)),
    "nin_cifar": layers.Variant(partial(NiN, blocks=_CIFAR, min_image_size=6), (32, 32, 3)),
}
