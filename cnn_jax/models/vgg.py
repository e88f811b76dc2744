"""VGG: five stages of 3x3 convolutions and three dense layers.

Simonyan & Zisserman 2014, 'Very Deep Convolutional Networks for Large-Scale Image Recognition'
(arXiv:1409.1556), Table 1, columns A, B, D and E: `vgg11`, `vgg13`, `vgg16` and `vgg19`. They have
132,863,336, 133,047,848, 138,357,544 and 143,667,240 parameters for 1000 classes (Table 2). The
variants with `_bn` are torchvision's: batch normalisation (arXiv:1502.03167) follows each
convolution, which keeps its bias.

Departures from the paper: convolutions use He normal initialisation with the fan-out, as in
torchvision. The paper initialises the deep networks with a trained shallow network. The shape of
fc6 depends on the image size at `init`. Maps of images of another size are pooled to the size that
fc6 takes, as in torchvision, where it is always 7x7 pixels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers, shapes
from cnn_jax.models.dropout import Dropout

MIN_IMAGE_SIZE = 32  # Five poolings each halve the image.

# Number of convolutions in each stage; comments name the column of Table 1.
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),  # A
    "vgg13": (2, 2, 2, 2, 2),  # B
    "vgg16": (2, 2, 3, 3, 3),  # D
    "vgg19": (2, 2, 4, 4, 4),  # E
}

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_dense_init = nn.initializers.normal(0.01)


class VGG(nn.Module):
    """VGG network: stages of 3x3 convolutions and 2x2 max-pooling, then three dense layers.

    Attributes:
      num_classes: the number of logits.
      depths: number of convolutions in each stage.
      widths: channels in each stage. Dive into Deep Learning, section 8.2, uses a quarter of them.
      batch_norm: if True, batch normalisation follows each convolution.
      dropout_rate: rate of the dropout after fc6 and fc7.
      remat: whether the backward pass recomputes each stage instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: the lengths of `widths` and `depths` differ.
    """

    num_classes: int
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    batch_norm: bool = False
    dropout_rate: float = 0.5
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_stages(depths=self.depths, widths=self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "vgg")
        x = images
        for number in range(1, len(self.depths) + 1):
            stage = partial(VGG._stage, number=number, train=train)
            x = layers.remat(stage, self.remat)(self, x)  # [B, H / 2^number, W / 2^number, width]
            layers.feature(self, f"stage{number}", x)
        # [B, 25088] for images of 224x224
        x = shapes.flatten_for(self, "fc6", x, images, pooled=7)
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(4096, kernel_init=_dense_init, dtype=self.dtype, name=name)(x))
            x = Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, kernel_init=_dense_init, dtype=self.dtype, name="fc8")
        return layers.logits(x, self.num_classes, head)

    def _stage(self, x: jax.Array, *, number: int, train: bool) -> jax.Array:
        """Applies the convolutions of stage `number`, counted from 1, and max-pooling."""
        for index in range(1, self.depths[number - 1] + 1):
            x = self._convolve(f"{number}_{index}", self.widths[number - 1], x, train)
        return ops.max_pool(x, 2)

    def _convolve(self, suffix: str, width: int, x: jax.Array, train: bool) -> jax.Array:
        """Applies a 3x3 convolution with `width` channels, batch normalisation if enabled, ReLU.

        Args:
          suffix: stage and position, such as '1_2' for `conv1_2`.
          width: the number of output channels.
          x: `[B, H, W, C]`.
          train: True to normalise with the statistics of the batch.
        """
        conv = layers.Conv(
            width,
            (3, 3),
            padding=1,
            kernel_init=_conv_init,
            dtype=self.dtype,
            name=f"conv{suffix}",
        )
        x = conv(x)
        if self.batch_norm:
            norm = layers.batch_norm(train=train, dtype=self.dtype)
            x = norm(name=f"bn{suffix}")(x)
        return nn.relu(x)


VARIANTS = {
    name + suffix: layers.Variant(
        partial(VGG, depths=depths, batch_norm=bool(suffix)), (224, 224, 3)
    )
    for name, depths in DEPTHS.items()
    for suffix in ("", "_bn")
}
