"""Inception v4 and Inception-ResNet v2.

Szegedy, Ioffe, Vanhoucke & Alemi 2016, 'Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning' (arXiv:1602.07261).

`inception_v4` is Fig. 9 with the blocks of Figs. 3 to 8. It has 42,679,816 parameters for 1000
classes. `inception_resnet_v2` is the model that the authors released with TensorFlow. It has
55,843,464 parameters. Both are as in timm: they omit the auxiliary heads of the released models,
which the paper does not mention.

Departures from the paper: `inception_v4` has none. `inception_resnet_v2` follows the released
model: it has the stem of Inception v3 instead of Fig. 3, twice the residual blocks of Fig. 15,
other widths than Figs. 16 to 19, and a 1x1 convolution before the classifier. Both networks use He
normal initialisation.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import branches, layers
from cnn_jax.models.branches import Branches, Items, Part, padded, valid
from cnn_jax.models.dropout import Dropout

MIN_IMAGE_SIZE = 75  # Smaller images have no pixels left before the last blocks.

_max_pool = partial(ops.max_pool, window=3, stride=2)
_avg_pool = partial(ops.avg_pool, window=3, stride=1, padding=1, count_include_pad=False)


class InceptionV4(nn.Module):
    """Inception v4: a stem and the inception blocks A, B and C, with a reduction after A and B.

    Attributes:
      num_classes: the number of logits.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each inception block instead of storing its
        activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    dropout_rate: float = 0.2
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "inception_v4")
        conv = _conv_norm(train, self.dtype)
        x = images
        for name, part in PARTS.items():
            x = branches.apply(name, part, x, conv, remat=self.remat)
            layers.feature(self, name, x)
        x = ops.global_avg_pool(x)  # [B, 1536]
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, dtype=self.dtype, name="last_linear")
        return layers.logits(x, self.num_classes, head)


class InceptionResNetV2(nn.Module):
    """Inception-ResNet v2; its blocks are named by their input size (Figs. 16, 17 and 19).

    Attributes:
      num_classes: the number of logits.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each inception block instead of storing its
        activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    dropout_rate: float = 0.2
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "inception_resnet_v2")
        conv = _conv_norm(train, self.dtype)
        apply = partial(branches.apply, conv=conv, remat=self.remat)
        block = partial(layers.remat(ResidualBlock, self.remat), conv=conv, dtype=self.dtype)
        x = images
        for name, part in _RESNET_STEM.items():
            x = layers.feature(self, name, apply(name, part, x))
        for i in range(10):
            x = nn.relu(block(tuple(_BLOCK_35.items()), scale=0.17, name=f"block35_{i}")(x))
        layers.feature(self, "block35", x)
        x = apply("mixed_6a", _RESNET_REDUCTION_A, x)  # [B, 17, 17, 1088]
        for i in range(20):
            x = nn.relu(block(tuple(_BLOCK_17.items()), scale=0.1, name=f"block17_{i}")(x))
        layers.feature(self, "block17", x)
        x = apply("mixed_7a", _RESNET_REDUCTION_B, x)  # [B, 8, 8, 2080]
        for i in range(9):
            x = nn.relu(block(tuple(_BLOCK_8.items()), scale=0.2, name=f"block8_{i}")(x))
        x = block(tuple(_BLOCK_8.items()), scale=1.0, name="block8")(
            x
        )  # The last block has no ReLU.
        layers.feature(self, "block8", x)
        x = apply("conv2d_7b", padded(1536), x)
        x = Dropout(self.dropout_rate, deterministic=not train)(ops.global_avg_pool(x))
        head = partial(nn.Dense, dtype=self.dtype, name="classif")
        return layers.logits(x, self.num_classes, head)


class ResidualBlock(nn.Module):
    """Residual inception block (Fig. 20), `[B, H, W, C]` to the same shape.

    A 1x1 convolution without activation brings the concatenated branches to C channels. The scaled
    result is added to the input.

    Attributes:
      branches: branches of the block.
      scale: factor of the residual, which stabilises training (section 3.3).
      conv: builds the branches' convolutions; see `branches.apply`.
      dtype: dtype of the computation.
    """

    branches: Items
    scale: float
    conv: layers.ModuleDef
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        residual = branches.concatenated(x, self.branches, self.conv)
        expand = layers.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="conv2d")
        return x + self.scale * expand(residual)


def _conv_norm(train: bool, dtype: DTypeLike) -> layers.ModuleDef:
    """Returns `layers.ConvNorm` with batch normalisation (epsilon 1e-3) and ReLU."""
    norm = layers.batch_norm(train=train, dtype=dtype, epsilon=1e-3)
    return partial(layers.ConvNorm, norm=norm, dtype=dtype)


_INCEPTION_A: Branches = MappingProxyType(  # Fig. 4
    {
        "branch0": (padded(96),),
        "branch1": (padded(64), padded(96, 3)),
        "branch2": (padded(64), padded(96, 3), padded(96, 3)),
        "branch3": (_avg_pool, padded(96)),
    }
)
_INCEPTION_B: Branches = MappingProxyType(  # Fig. 5
    {
        "branch0": (padded(384),),
        "branch1": (padded(192), padded(224, (1, 7)), padded(256, (7, 1))),
        "branch2": (
            padded(192),
            padded(192, (7, 1)),
            padded(224, (1, 7)),
            padded(224, (7, 1)),
            padded(256, (1, 7)),
        ),
        "branch3": (_avg_pool, padded(128)),
    }
)
_PARALLEL_1X3_3X1 = (padded(256, (1, 3)), padded(256, (3, 1)))
_INCEPTION_C: Branches = MappingProxyType(  # Fig. 6
    {
        "branch0": (padded(256),),
        "branch1": (padded(384), _PARALLEL_1X3_3X1),
        "branch2": (padded(384), padded(448, (3, 1)), padded(512, (1, 3)), _PARALLEL_1X3_3X1),
        "branch3": (_avg_pool, padded(256)),
    }
)

PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "conv1": valid(32, 3, 2),  # Fig. 3: conv1 to mixed_5a
        "conv2": valid(32, 3),
        "conv3": padded(64, 3),
        "mixed_3a": {"maxpool": (_max_pool,), "conv": (valid(96, 3, 2),)},
        "mixed_4a": {
            "branch0": (padded(64), valid(96, 3)),
            "branch1": (padded(64), padded(64, (1, 7)), padded(64, (7, 1)), valid(96, 3)),
        },
        "mixed_5a": {"conv": (valid(192, 3, 2),), "maxpool": (_max_pool,)},
        **{f"inception_a{i}": _INCEPTION_A for i in range(4)},  # [B, 35, 35, 384] for 299x299
        "reduction_a": {  # Fig. 7, with the widths of Table 1
            "branch0": (valid(384, 3, 2),),
            "branch1": (padded(192), padded(224, 3), valid(256, 3, 2)),
            "branch2": (_max_pool,),
        },
        **{f"inception_b{i}": _INCEPTION_B for i in range(7)},  # [B, 17, 17, 1024]
        "reduction_b": {  # Fig. 8
            "branch0": (padded(192), valid(192, 3, 2)),
            "branch1": (padded(256), padded(256, (1, 7)), padded(320, (7, 1)), valid(320, 3, 2)),
            "branch2": (_max_pool,),
        },
        **{f"inception_c{i}": _INCEPTION_C for i in range(3)},  # [B, 8, 8, 1536]
    }
)

_RESNET_STEM: Mapping[str, Part] = MappingProxyType(
    {
        "conv2d_1a": valid(32, 3, 2),
        "conv2d_2a": valid(32, 3),
        "conv2d_2b": padded(64, 3),
        "maxpool_3a": _max_pool,
        "conv2d_3b": padded(80),
        "conv2d_4a": valid(192, 3),
        "maxpool_5a": _max_pool,
        "mixed_5b": {  # [B, 35, 35, 320]
            "branch0": (padded(96),),
            "branch1": (padded(48), padded(64, 5)),
            "branch2": (padded(64), padded(96, 3), padded(96, 3)),
            "branch3": (_avg_pool, padded(64)),
        },
    }
)
_BLOCK_35: Branches = MappingProxyType(
    {
        "branch0": (padded(32),),
        "branch1": (padded(32), padded(32, 3)),
        "branch2": (padded(32), padded(48, 3), padded(64, 3)),
    }
)
_RESNET_REDUCTION_A: Branches = MappingProxyType(
    {
        "branch0": (valid(384, 3, 2),),
        "branch1": (padded(256), padded(256, 3), valid(384, 3, 2)),
        "branch2": (_max_pool,),
    }
)
_BLOCK_17: Branches = MappingProxyType(
    {
        "branch0": (padded(192),),
        "branch1": (padded(128), padded(160, (1, 7)), padded(192, (7, 1))),
    }
)
_RESNET_REDUCTION_B: Branches = MappingProxyType(
    {
        "branch0": (padded(256), valid(384, 3, 2)),
        "branch1": (padded(256), valid(288, 3, 2)),
        "branch2": (padded(256), padded(288, 3), valid(320, 3, 2)),
        "branch3": (_max_pool,),
    }
)
_BLOCK_8: Branches = MappingProxyType(
    {
        "branch0": (padded(192),),
        "branch1": (padded(192), padded(224, (1, 3)), padded(256, (3, 1))),
    }
)

VARIANTS = {
    "inception_v4": layers.Variant(InceptionV4, (299, 299, 3)),
    "inception_resnet_v2": layers.Variant(InceptionResNetV2, (299, 299, 3)),
}
