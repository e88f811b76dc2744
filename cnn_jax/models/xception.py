"""Xception: residual network of depthwise separable convolutions.

Chollet 2016, 'Xception: Deep Learning with Depthwise Separable Convolutions' (arXiv:1610.02357),
Fig. 5, without the optional dense layers. It has 22,855,952 parameters for 1000 classes, as in
Keras, which is the author's release, and in timm's `legacy_xception`.

Departures from the paper: max-pooling pads by one pixel on all sides, as in timm. Keras, whose
weights timm converted, has `padding="SAME"` and `epsilon=1e-3`. The paper does not state the
initialisation; here it is He normal with the fan-out, as in timm.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers
from cnn_jax.models.dropout import Dropout

MIN_IMAGE_SIZE = 7  # Smaller images have no pixels left after the first two convolutions.

# The channels of each separable convolution, by stage and block. The first block of a stage halves
# the image.
STAGES = (
    ((128, 128),),
    ((256, 256),),
    ((728, 728), *((728, 728, 728),) * 8),
    ((728, 1024),),
)


class Xception(nn.Module):
    """Xception: two convolutions, twelve blocks, two separable convolutions, a dense layer.

    Attributes:
      num_classes: the number of logits.
      padding: padding of the max-poolings: 'HALF' for half the window, or 'SAME' as in TensorFlow.
      epsilon: constant added to the variance in batch normalisation.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    padding: str = "HALF"
    epsilon: float = 1e-5
    dropout_rate: float = 0.5
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_padding(self.padding)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
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
                x = layers.remat(Block, self.remat)(
                    widths,
                    starts_with_relu=number > 1,
                    pool=pool if index == 0 else None,
                    conv=conv,
                    norm=norm,
                    name=f"block{number}",
                )(x)
        for number, width in ((3, 1536), (4, 2048)):
            x = SeparableConv(width, conv, name=f"conv{number}")(x)
            x = nn.relu(norm(name=f"bn{number}")(x))
        x = ops.global_avg_pool(layers.feature(self, "stage4", x))  # [B, 2048]
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, dtype=self.dtype, name="fc")
        return layers.logits(x, self.num_classes, head)


class Block(nn.Module):
    """Residual block of separable convolutions.

    Normalisation follows each convolution. ReLU precedes each convolution except the first.

    Attributes:
      widths: channels of each separable convolution.
      starts_with_relu: if True, a ReLU also precedes the first convolution.
      pool: pooling that halves the image; the shortcut is then a 1x1 convolution of stride 2. None
        for blocks that keep the shape and have the input as the shortcut.
      conv: builds a convolution without bias; takes features, kernel size and stride.
      norm: builds a normalisation in training or evaluation mode; takes a name.
    """

    widths: tuple[int, ...]
    starts_with_relu: bool
    pool: Callable[[jax.Array], jax.Array] | None
    conv: layers.ModuleDef
    norm: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i, width in enumerate(self.widths, 1):
            if i > 1 or self.starts_with_relu:
                y = nn.relu(y)
            y = SeparableConv(width, self.conv, name=f"sepconv{i}")(y)
            y = self.norm(name=f"bn{i}")(y)
        if self.pool is None:
            return x + y
        shortcut = self.conv(self.widths[-1], (1, 1), 2, name="skip")(x)
        return self.norm(name="skipbn")(shortcut) + self.pool(y)


class SeparableConv(nn.Module):
    """Depthwise 3x3 convolution, then a 1x1 convolution, without activation in between."""

    features: int
    conv: layers.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = self.conv(channels, (3, 3), padding=1, groups=channels, name="depthwise")(x)
        return self.conv(self.features, (1, 1), name="pointwise")(x)


VARIANTS = {"xception": layers.Variant(Xception, (299, 299, 3))}
