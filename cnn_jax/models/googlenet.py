"""GoogLeNet, the first Inception network.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke & Rabinovich 2014, 'Going Deeper with
Convolutions' (arXiv:1409.4842), Table 1 and section 5. Details that the paper leaves open, such as
the response normalisation, are those of the Caffe model bvlc_googlenet.

- `googlenet`: 6,998,552 parameters for 224x224x3 images and 1000 classes, 13,378,280 with both
  auxiliary heads. The size of the heads depends on the image size.
- `googlenet_bn`: torchvision's variant, 6,624,904 and 13,004,888 parameters.

Both round the sizes of pooled maps up, as Caffe and torchvision do: 56, 28, 14 and 7 pixels for a
224x224 image, as in Table 1. Exports that round down have 55, 27, 13 and 6 pixels; inception_v1 of
the ONNX model zoo does (light_inception_v1.onnx in the package onnx 1.16.2).

Departures from the paper: none in `googlenet`. It is initialised as in Caffe: uniform weights with
variance 1 / fan_in, and biases of 0.2, or 0 in the three classifiers. `googlenet_bn` differs as
follows:

- Batch normalisation replaces the response normalisation.
- 3x3 convolutions replace the 5x5 ones (https://github.com/pytorch/vision/issues/906).
- The pooling before 5a has windows of 2x2 pixels.
- The auxiliary heads pool their input to 4x4 pixels for every image size.
- Weights are initialised by He normal.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import branches, layers, shapes
from cnn_jax.models.branches import Branches, Pair, Part, padded
from cnn_jax.models.dropout import Dropout

MIN_IMAGE_SIZE = 31  # smaller images have no pixels in inception5a
MIN_IMAGE_SIZE_AUXILIARY = 47  # smaller images have no pixels in the auxiliary heads
MIN_IMAGE_SIZE_BN = 15

# For each block with an auxiliary head: the name of the head and the name of its logits. The logits
# sorted by name have torchvision's order: aux2, then aux1.
HEADS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"inception4a": ("aux1", "shallow"), "inception4d": ("aux2", "deep")}
)

_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
_bias = nn.initializers.constant(0.2)
_pool = partial(ops.max_pool, window=3, stride=2, ceil_mode=True)
_response_norm = partial(
    ops.local_response_norm, size=5, alpha=1e-4, beta=0.75, k=1.0, divide_by_size=True
)


class GoogLeNet(nn.Module):
    """Three convolutions, nine inception blocks and a classifier; layers named as in torchvision.

    Attributes:
      num_classes: the number of logits.
      batch_norm: whether to build torchvision's variant, `googlenet_bn`.
      dropout_rate: rate of the dropout before the classifier.
      auxiliary_dropout_rate: rate of the dropout before the classifiers of the auxiliary heads.
      auxiliary_heads: whether the network has auxiliary heads.
      remat: whether the backward pass recomputes each inception block
        instead of storing its activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    batch_norm: bool = False
    dropout_rate: float = 0.4
    auxiliary_dropout_rate: float = 0.7
    auxiliary_heads: bool = True
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        heads = self.auxiliary_heads and self.num_classes > 0
        auxiliary = layers.wants_auxiliary(self, heads, train)
        minimum = self._min_image_size(auxiliary)
        layers.check_image_size(images, minimum, "googlenet_bn" if self.batch_norm else "googlenet")
        conv, dense = self._conv(train), partial(nn.Dense, dtype=self.dtype)
        if not self.batch_norm:
            dense = partial(dense, kernel_init=_uniform)
        x = images
        for name, part in _parts(self.batch_norm).items():
            x = branches.apply(name, part, x, conv, remat=self.remat)
            layers.feature(self, name, x)
            if auxiliary and name in HEADS:
                head_name, logits_name = HEADS[name]
                head = AuxiliaryHead(
                    self.num_classes,
                    self.auxiliary_dropout_rate,
                    conv,
                    dense,
                    _pool_4x4 if self.batch_norm else _pool_5x5,
                    nn.initializers.zeros_init() if self.batch_norm else _bias,
                    name=head_name,
                )
                layers.sow_auxiliary(self, logits_name, head(x, images, train))
        x = ops.global_avg_pool(x)  # [B, 1024]
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        return layers.logits(x, self.num_classes, partial(dense, name="fc"))

    def _min_image_size(self, auxiliary: bool) -> int:
        if self.batch_norm:
            return MIN_IMAGE_SIZE_BN
        return MIN_IMAGE_SIZE_AUXILIARY if auxiliary else MIN_IMAGE_SIZE

    def _conv(self, train: bool) -> layers.ModuleDef:
        if not self.batch_norm:
            return partial(RectifiedConv, dtype=self.dtype)
        norm = layers.batch_norm(train=train, dtype=self.dtype, epsilon=1e-3)
        return partial(layers.ConvNorm, norm=norm, dtype=self.dtype)


class RectifiedConv(nn.Module):
    """Convolution with bias, and ReLU; initialised as in Caffe. Child module: `conv`."""

    features: int
    kernel_size: tuple[int, int]
    stride: int = 1
    padding: int | tuple[int, int] = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = layers.Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.padding,
            kernel_init=_uniform,
            bias_init=_bias,
            dtype=self.dtype,
            name="conv",
        )
        return nn.relu(conv(x))


class AuxiliaryHead(nn.Module):
    """Auxiliary classifier on a block, `[B, 14, 14, C]` to `[B, num_classes]` (section 5).

    Attributes:
      num_classes: the number of logits.
      dropout_rate: rate of the dropout before the last dense layer.
      conv: builds a convolution with its activation function.
      dense: builds a dense layer.
      pool: pooling applied to the input.
      bias_init: initialiser of the biases of fc1.
    """

    num_classes: int
    dropout_rate: float
    conv: layers.ModuleDef
    dense: layers.ModuleDef
    pool: Callable[[jax.Array], jax.Array]
    bias_init: Initializer

    @nn.compact
    def __call__(self, x: jax.Array, images: jax.Array, train: bool) -> jax.Array:
        x = self.conv(128, (1, 1), name="conv")(self.pool(x))  # [B, 4, 4, 128]
        x = shapes.flatten_for(self, "fc1", x, images)
        x = nn.relu(self.dense(1024, bias_init=self.bias_init, name="fc1")(x))
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        return self.dense(self.num_classes, name="fc2")(x)


def _pool_4x4(x: jax.Array) -> jax.Array:
    return shapes.adaptive_pool(x, (4, 4))


def _pool_5x5(x: jax.Array) -> jax.Array:
    return ops.avg_pool(x, 5, 3, ceil_mode=True)


def _block(one: int, three: Pair, five: Pair, projection: int, size: int = 5) -> Branches:
    """Returns the branches of an inception block, given the channels from its row in Table 1.

    Args:
      one: channels of the 1x1 convolution.
      three: channels of the 1x1 reduction and of the 3x3 convolution after it.
      five: channels of the 1x1 reduction and of the 5x5 convolution after it.
      projection: channels of the 1x1 convolution after the pooling.
      size: kernel size used for the 5x5 convolution.
    """
    return {
        "branch1": (padded(one),),
        "branch2": (padded(three[0]), padded(three[1], 3)),
        "branch3": (padded(five[0]), padded(five[1], size)),
        "branch4": (partial(ops.max_pool, window=3, stride=1, padding=1), padded(projection)),
    }


def _parts(batch_norm: bool) -> dict[str, Part]:
    """Returns the parts of the network from the image to the last inception block."""
    norm = _identity if batch_norm else _response_norm
    block = partial(_block, size=3 if batch_norm else 5)
    return {
        "conv1": padded(64, 7, 2),
        "maxpool1": _pool,
        "norm1": norm,
        "conv2": padded(64),
        "conv3": padded(192, 3),
        "norm2": norm,
        "maxpool2": _pool,  # [B, 28, 28, 192] for a 224x224 image
        "inception3a": block(64, (96, 128), (16, 32), 32),
        "inception3b": block(128, (128, 192), (32, 96), 64),
        "maxpool3": _pool,  # [B, 14, 14, 480]
        "inception4a": block(192, (96, 208), (16, 48), 64),
        "inception4b": block(160, (112, 224), (24, 64), 64),
        "inception4c": block(128, (128, 256), (24, 64), 64),
        "inception4d": block(112, (144, 288), (32, 64), 64),
        "inception4e": block(256, (160, 320), (32, 128), 128),
        "maxpool4": partial(_pool, window=2 if batch_norm else 3),  # [B, 7, 7, 832]
        "inception5a": block(256, (160, 320), (32, 128), 128),
        "inception5b": block(384, (192, 384), (48, 128), 128),
    }


def _identity(x: jax.Array) -> jax.Array:
    return x


VARIANTS = {
    "googlenet": layers.Variant(GoogLeNet, (224, 224, 3)),
    "googlenet_bn": layers.Variant(
        partial(GoogLeNet, batch_norm=True, dropout_rate=0.2), (224, 224, 3)
    ),
}
