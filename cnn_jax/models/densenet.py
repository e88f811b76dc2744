"""DenseNet: every layer of a block reads the outputs of all earlier layers of the block.

Huang, Liu, van der Maaten & Weinberger 2016, 'Densely Connected Convolutional Networks'
(arXiv:1608.06993): Table 1, with bottlenecks and compression (DenseNet-BC). The growth rate is 32
channels in `densenet121`, `densenet169` and `densenet201`, and 48 in `densenet161`, as in
torchvision.

Departures from the paper: none. Weights are initialised by He normal. `epsilon` is torch's; Keras
has 1.001e-5.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers
from cnn_jax.models.dropout import Dropout

MIN_IMAGE_SIZE = 29  # smaller images have no pixels after the last transition


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, global average pooling, dense layer.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: number of layers in each dense block.
      growth: growth rate, the channels that each layer adds; k in the paper. The stem has `2 k`
        channels.
      compression: share of the channels that a transition keeps; theta in the paper.
      epsilon: constant added to the variance in batch normalisation.
      dropout_rate: rate of the dropout after every convolution but the first (section 4.2).
      remat: whether the backward pass recomputes each layer of a dense block instead of storing its
        activations. The concatenated inputs of the layers are stored.
      dtype: dtype of the computation.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    growth: int = 32
    compression: float = 0.5
    epsilon: float = 1e-5
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_stages(stage_sizes=self.stage_sizes)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "densenet")
        conv = partial(layers.Conv, padding="HALF", use_bias=False, dtype=self.dtype)
        norm = layers.batch_norm(train=train, dtype=self.dtype, epsilon=self.epsilon)
        dropout = partial(Dropout, self.dropout_rate, deterministic=not train)
        parts = (conv, norm, dropout)
        x = conv(2 * self.growth, (7, 7), 2, name="conv0")(images)
        x = layers.feature(self, "stem", nn.relu(norm(name="norm0")(x)))
        x = ops.max_pool(x, 3, 2, "HALF")
        for stage, size in enumerate(self.stage_sizes, 1):
            if stage > 1:
                features = int(self.compression * x.shape[-1])
                x = Transition(features, *parts, name=f"transition{stage - 1}")(x)
            name = f"denseblock{stage}"
            x = DenseBlock(size, self.growth, *parts, remat=self.remat, name=name)(x)
            layers.feature(self, f"stage{stage}", x)
        x = nn.relu(norm(name="norm5")(x))
        head = partial(nn.Dense, dtype=self.dtype, name="classifier")
        return layers.logits(ops.global_avg_pool(x), self.num_classes, head)


class DenseBlock(nn.Module):
    """Dense block, `[B, H, W, C]` to `[B, H, W, C + size * growth]`.

    Each layer appends `growth` channels to its input.

    Attributes:
      size: number of layers.
      growth: channels that each layer appends.
      conv: builds a convolution; takes features, kernel size and name.
      norm: builds a normalisation; takes a name.
      dropout: builds a dropout; takes no arguments.
      remat: whether the backward pass recomputes each layer.
    """

    size: int
    growth: int
    conv: layers.ModuleDef
    norm: layers.ModuleDef
    dropout: layers.ModuleDef
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(1, self.size + 1):
            layer = layers.remat(DenseLayer, self.remat)(
                self.growth, self.conv, self.norm, self.dropout, name=f"denselayer{index}"
            )
            x = jnp.concatenate([x, layer(x)], axis=-1)
        return x


class DenseLayer(nn.Module):
    """Layer of a dense block, `[B, H, W, C]` to `[B, H, W, growth]`.

    A 1x1 convolution to `4 growth` channels and a 3x3 convolution, each after batch normalisation
    and ReLU (section 3, 'Bottleneck layers').
    """

    growth: int
    conv: layers.ModuleDef
    norm: layers.ModuleDef
    dropout: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(self.norm(name="norm1")(x))
        x = self.dropout()(self.conv(4 * self.growth, (1, 1), name="conv1")(x))
        x = nn.relu(self.norm(name="norm2")(x))
        return self.dropout()(self.conv(self.growth, (3, 3), name="conv2")(x))


class Transition(nn.Module):
    """Transition between dense blocks, `[B, H, W, C]` to `[B, H / 2, W / 2, features]`."""

    features: int
    conv: layers.ModuleDef
    norm: layers.ModuleDef
    dropout: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(self.norm(name="norm")(x))
        x = self.dropout()(self.conv(self.features, (1, 1), name="conv")(x))
        return ops.avg_pool(x, 2)


def _variant(stage_sizes: tuple[int, ...], growth: int = 32) -> layers.Variant:
    build = partial(DenseNet, stage_sizes=stage_sizes, growth=growth)
    return layers.Variant(build, (224, 224, 3))


VARIANTS = {
    "densenet121": _variant((6, 12, 24, 16)),
    "densenet161": _variant((6, 12, 36, 24), growth=48),
    "densenet169": _variant((6, 12, 32, 32)),
    "densenet201": _variant((6, 12, 48, 32)),
}
