"""Inception v2 and v3.

`bn_inception`: Ioffe & Szegedy 2015, 'Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift', ICML (arXiv:1502.03167), Fig. 5, in the layout of the ONNX model
zoo's inception-v2. It has 11,194,984 parameters for 1000 classes: 10,150,080 weights of 69
convolutions, scale and bias of 9,952 normalised channels, and 1,025,000 in the classifier.

`inception_v3`: Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2016, 'Rethinking the Inception
Architecture for Computer Vision', CVPR (arXiv:1512.00567), Table 1, as in torchvision. It has
23,834,568 parameters for 1000 classes, 27,161,264 with the auxiliary head.

Departures from the paper in `bn_inception`: the first convolution is not separable. Blocks 4c and
4d project the pooled image to 96 channels instead of 128, which gives the depth of 576 stated in
Fig. 5. Average pooling excludes padding from the mean. Max-pooling rounds up. All four are those of
light_inception_v2.onnx in the package onnx 1.16.2, the zoo's network without its weights.

Departures from the paper in `inception_v3`: the last two convolutions of the stem have 80 channels
at 73x73 pixels and 192 channels at 71x71 pixels. The reductions to 17x17 and to 8x8 pixels both use
Fig. 10. Both convolutions of the auxiliary head are normalised. These three are as in the authors'
released model. Average pooling includes padding in the mean, as in torchvision; Keras' weights need
`count_include_pad=False`.

Both networks use He normal initialisation.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import branches, layers
from cnn_jax.models.branches import Branches, Pair, Part, padded, valid
from cnn_jax.models.dropout import Dropout

Pool = Callable[[jax.Array], jax.Array]

MIN_IMAGE_SIZE_V2 = 7  # Smaller images have no pixels left after the stem.
MIN_IMAGE_SIZE_V3 = 75  # Smaller images have no pixels left before the last blocks.
MIN_IMAGE_SIZE_V3_AUXILIARY = 299  # Smaller images have no pixels left in the auxiliary head.

_max_pool = partial(ops.max_pool, window=3, stride=2)
_max_pool_stride1 = partial(ops.max_pool, window=3, stride=1, padding=1)
_avg_pool = partial(ops.avg_pool, window=3, stride=1, padding=1)
_avg_pool_exclude_pad = partial(_avg_pool, count_include_pad=False)


class BNInception(nn.Module):
    """Inception v2 with the layer names of the Caffe model from which the ONNX model was made.

    Attributes:
      num_classes: the number of logits.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each inception block instead of storing its
        activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE_V2, "bn_inception")
        norm = layers.batch_norm(train=train, dtype=self.dtype)
        conv = partial(layers.ConvNorm, norm=norm, dtype=self.dtype)
        x = images
        for name, part in _V2.items():
            x = branches.apply(name, part, x, conv, remat=self.remat)
            layers.feature(self, name, x)
        x = ops.global_avg_pool(x)  # [B, 1024]
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, dtype=self.dtype, name="classifier")
        return layers.logits(x, self.num_classes, head)


class InceptionV3(nn.Module):
    """Inception v3 with torchvision's layer names, except that its `AuxLogits` is `aux`.

    Attributes:
      num_classes: the number of logits.
      dropout_rate: rate of the dropout before the classifier.
      auxiliary_heads: if True, training also computes the logits of the auxiliary head.
      count_include_pad: if True, average pooling includes zero padding in the mean, as in
        torchvision. TensorFlow and Keras exclude it.
      remat: whether the backward pass recomputes each inception block instead of storing its
        activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    dropout_rate: float = 0.5
    auxiliary_heads: bool = True
    count_include_pad: bool = True
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        heads = self.auxiliary_heads and self.num_classes > 0
        auxiliary = layers.wants_auxiliary(self, heads, train)
        minimum = MIN_IMAGE_SIZE_V3_AUXILIARY if auxiliary else MIN_IMAGE_SIZE_V3
        layers.check_image_size(images, minimum, "inception_v3")
        norm = layers.batch_norm(train=train, dtype=self.dtype, epsilon=1e-3)
        conv = partial(layers.ConvNorm, norm=norm, dtype=self.dtype)
        x = images
        pool = _avg_pool if self.count_include_pad else _avg_pool_exclude_pad
        for name, part in _v3(pool).items():
            x = branches.apply(name, part, x, conv, first=1, remat=self.remat)
            layers.feature(self, name, x)
            if auxiliary and name == "Mixed_6e":
                auxiliary_head = AuxiliaryHead(self.num_classes, conv, self.dtype, name="aux")
                layers.sow_auxiliary(self, "aux1", auxiliary_head(x))
        x = ops.global_avg_pool(x)  # [B, 2048]
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, dtype=self.dtype, name="fc")
        return layers.logits(x, self.num_classes, head)


class AuxiliaryHead(nn.Module):
    """Auxiliary classifier (Fig. 8) on the last 17x17 feature map, `[B, H, W, C]` to `[B, K]`."""

    num_classes: int
    conv: layers.ModuleDef
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ops.avg_pool(x, 5, 3)  # [B, 5, 5, 768] for a 299x299 image
        x = self.conv(128, (1, 1), name="conv0")(x)
        x = self.conv(768, (5, 5), name="conv1")(x)
        x = ops.global_avg_pool(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)


def _max_pool_ceil(x: jax.Array) -> jax.Array:
    """Max-pools with window 3 and stride 2 to `ceil(H / 2)` by `ceil(W / 2)` pixels.

    That is the output size of the padded 3x3 convolutions of stride 2 in the other branches. Odd
    sizes need one pixel of padding on each side. They do not occur with 224x224 images.
    """
    return ops.max_pool(x, 3, 2, (x.shape[1] % 2, x.shape[2] % 2), ceil_mode=True)


def _v2(
    one: int, three: Pair, double: Pair, projection: int, pool: Pool = _avg_pool_exclude_pad
) -> Branches:
    """Returns a block of stride 1 from the columns of its row in Fig. 5.

    Args:
      one: channels of the 1x1 branch.
      three: channels of the 1x1 and of the 3x3 convolution in the 3x3 branch.
      double: channels of the 1x1 and of both 3x3 convolutions in the double 3x3 branch.
      projection: channels of the 1x1 convolution after the pooling.
      pool: pooling that keeps the image size.
    """
    return {
        "1x1": (padded(one),),
        "3x3": (padded(three[0]), padded(three[1], 3)),
        "double3x3": (padded(double[0]), padded(double[1], 3), padded(double[1], 3)),
        "pool": (pool, padded(projection)),
    }


def _v2_reduction(three: Pair, double: Pair) -> Branches:
    """Returns a block of stride 2 (Fig. 5); the arguments are those of `_v2`."""
    return {
        "3x3": (padded(three[0]), padded(three[1], 3, 2)),
        "double3x3": (padded(double[0]), padded(double[1], 3), padded(double[1], 3, 2)),
        "pool": (_max_pool_ceil,),
    }


_V2: Mapping[str, Part] = MappingProxyType(
    {
        "conv1": padded(64, 7, 2),
        "pool1": partial(_max_pool, ceil_mode=True),
        "conv2_reduce": padded(64),
        "conv2": padded(192, 3),
        "pool2": partial(_max_pool, ceil_mode=True),  # [B, 28, 28, 192] for a 224x224 image
        "inception_3a": _v2(64, (64, 64), (64, 96), 32),
        "inception_3b": _v2(64, (64, 96), (64, 96), 64),
        "inception_3c": _v2_reduction((128, 160), (64, 96)),  # [B, 14, 14, 576]
        "inception_4a": _v2(224, (64, 96), (96, 128), 128),
        "inception_4b": _v2(192, (96, 128), (96, 128), 128),
        "inception_4c": _v2(160, (128, 160), (128, 160), 96),
        "inception_4d": _v2(96, (128, 192), (160, 192), 96),
        "inception_4e": _v2_reduction((128, 192), (192, 256)),  # [B, 7, 7, 1024]
        "inception_5a": _v2(352, (192, 320), (160, 224), 128),
        "inception_5b": _v2(352, (192, 320), (192, 224), 128, pool=_max_pool_stride1),
    }
)


def _v3_a(projection: int, pool: Pool) -> Branches:
    """Returns a block for the 35x35 feature maps (Fig. 5)."""
    return {
        "branch1x1": (padded(64),),
        "branch5x5": (padded(48), padded(64, 5)),
        "branch3x3dbl": (padded(64), padded(96, 3), padded(96, 3)),
        "branch_pool": (pool, padded(projection)),
    }


def _v3_c(width: int, pool: Pool) -> Branches:
    """Returns a block for the 17x17 feature maps (Fig. 6 with n = 7)."""
    row, column = padded(width, (1, 7)), padded(width, (7, 1))
    return {
        "branch1x1": (padded(192),),
        "branch7x7": (padded(width), row, padded(192, (7, 1))),
        "branch7x7dbl": (padded(width), column, row, column, padded(192, (1, 7))),
        "branch_pool": (pool, padded(192)),
    }


def _v3_e(pool: Pool) -> Branches:
    """Returns a block for the 8x8 feature maps (Fig. 7)."""
    return {
        "branch1x1": (padded(320),),
        "branch3x3": (padded(384), (padded(384, (1, 3)), padded(384, (3, 1)))),
        "branch3x3dbl": (
            padded(448),
            padded(384, 3),
            (padded(384, (1, 3)), padded(384, (3, 1))),
        ),
        "branch_pool": (pool, padded(192)),
    }


_V3_6A: Branches = {  # Fig. 10
    "branch3x3": (valid(384, 3, 2),),
    "branch3x3dbl": (padded(64), padded(96, 3), valid(96, 3, 2)),
    "branch_pool": (_max_pool,),
}
_V3_7A: Branches = {  # Fig. 10
    "branch3x3": (padded(192), valid(320, 3, 2)),
    "branch7x7x3": (padded(192), padded(192, (1, 7)), padded(192, (7, 1)), valid(192, 3, 2)),
    "branch_pool": (_max_pool,),
}


def _v3(pool: Pool) -> Mapping[str, Part]:
    """Returns the layers of Table 1 in order, with `pool` as the average pooling."""
    return {
        "Conv2d_1a_3x3": valid(32, 3, 2),
        "Conv2d_2a_3x3": valid(32, 3),
        "Conv2d_2b_3x3": padded(64, 3),
        "maxpool1": _max_pool,
        "Conv2d_3b_1x1": padded(80),
        "Conv2d_4a_3x3": valid(192, 3),
        "maxpool2": _max_pool,  # [B, 35, 35, 192] for a 299x299 image
        "Mixed_5b": _v3_a(32, pool),
        "Mixed_5c": _v3_a(64, pool),
        "Mixed_5d": _v3_a(64, pool),
        "Mixed_6a": _V3_6A,  # [B, 17, 17, 768]
        "Mixed_6b": _v3_c(128, pool),
        "Mixed_6c": _v3_c(160, pool),
        "Mixed_6d": _v3_c(160, pool),
        "Mixed_6e": _v3_c(192, pool),
        "Mixed_7a": _V3_7A,  # [B, 8, 8, 1280]
        "Mixed_7b": _v3_e(pool),
        "Mixed_7c": _v3_e(pool),  # [B, 8, 8, 2048]
    }


VARIANTS = {
    "bn_inception": layers.Variant(BNInception, (224, 224, 3)),
    "inception_v3": layers.Variant(InceptionV3, (299, 299, 3)),
}
