"""Xception: depthwise separable convolutions with shortcuts.

Chollet 2016, 'Xception: Deep Learning with Depthwise Separable Convolutions' (arXiv:1610.02357),
Fig. 5, without the optional dense layers: 22,855,952 parameters for 1000 classes, as in Keras, the
author's release, and in timm's `legacy_xception`.

Departures from the paper: poolings pad by one pixel on all sides, as in timm; `padding` 'SAME' and
an epsilon of 1e-3 are Keras', whose weights timm converted. Weights start from He's normal
distribution over the fan-out, timm's choice; the paper says nothing of it.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers

MIN_IMAGE_SIZE = 7  # below this nothing is left of the image after the first two convolutions

# Channels after each separable convolution of each block; the first block of a stage halves the
# image.
STAGES = (
    ((128, 128),),
    ((256, 256),),
    ((728, 728), *((728, 728, 728),) * 8),
    ((728, 1024),),
)


class Xception(nn.Module):
    """Two convolutions, twelve blocks, two separable convolutions, and a dense layer on the mean.

    Attributes:
      num_classes: the number of logits.
      padding: of the poolings, 'HALF' the window or 'SAME', TensorFlow's.
      epsilon: of the normalisation.
      dropout_rate: before the classifier.
      dtype: what is computed in.
    """

    num_classes: int
    padding: str = "HALF"
    epsilon: float = 1e-5
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "xception")
        conv = partial(
            layers.Conv, use_bias=False, kernel_init=layers.he_normal_fan_out, dtype=self.dtype
        )
        norm = layers.batch_norm(train=train, dtype=self.dtype, epsilon=self.epsilon)
        x = nn.relu(norm(name="bn1")(conv(32, (3, 3), 2, name="conv1")(images)))
        x = nn.relu(norm(name="bn2")(conv(64, (3, 3), name="conv2")(x)))
        pool = partial(ops.max_pool, window=3, stride=2, padding=self.padding)
        number = 0
        for before, blocks in zip(("stem", "stage1", "stage2", "stage3"), STAGES, strict=True):
            x = layers.feature(self, before, x)
            for index, widths in enumerate(blocks):
                number += 1
                x = Block(
                    widths,
                    starts_active=number > 1,
                    pool=pool if index == 0 else None,
                    conv=conv,
                    norm=norm,
                    name=f"block{number}",
                )(x)
        for number, width in ((3, 1536), (4, 2048)):
            x = SeparableConv(width, conv, name=f"conv{number}")(x)
            x = nn.relu(norm(name=f"bn{number}")(x))
        x = ops.global_avg_pool(layers.feature(self, "stage4", x))  # [B, 2048]
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return layers.as_logits(nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x))


class Block(nn.Module):
    """Separable convolutions, a pooling if the block halves the image, and a shortcut.

    Attributes:
      widths: channels after each of the convolutions.
      starts_active: whether a ReLU comes before the first convolution, as before all the others.
      pool: that halves the image; None for blocks that keep its size, and their input as shortcut.
      conv: makes a convolution without bias; takes features, kernel size and stride.
      norm: makes a normalisation that knows whether it trains.
    """

    widths: tuple[int, ...]
    starts_active: bool
    pool: Callable[[jax.Array], jax.Array] | None
    conv: layers.ModuleDef
    norm: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i, width in enumerate(self.widths, 1):
            if i > 1 or self.starts_active:
                y = nn.relu(y)
            y = SeparableConv(width, self.conv, name=f"sepconv{i}")(y)
            y = self.norm(name=f"bn{i}")(y)
        if self.pool is None:
            return x + y
        shortcut = self.conv(self.widths[-1], (1, 1), 2, name="skip")(x)
        return self.norm(name="skipbn")(shortcut) + self.pool(y)


class SeparableConv(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution; nothing in between."""

    features: int
    conv: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = self.conv(channels, (3, 3), padding=1, groups=channels, name="depthwise")(x)
        return self.conv(self.features, (1, 1), name="pointwise")(x)


VARIANTS = {"xception": layers.Variant(Xception, (299, 299, 3))}
