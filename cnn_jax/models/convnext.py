"""ConvNeXt: a residual network with the design choices of a transformer.

Liu et al. 2022, 'A ConvNet for the 2020s' (arXiv:2201.03545), Fig. 4 and section 2. The variants
are ConvNeXt-T, ConvNeXt-S and ConvNeXt-B of section 3, with timm's names.

Departures from the paper: none. Kernels are initialised from a normal distribution with a standard
deviation of 0.02, biases with 0. The authors' code truncates the distribution at a hundred standard
deviations, which never matters.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import attention, layers
from cnn_jax.models.dropout import linear_rates, stochastic_depth

MIN_IMAGE_SIZE = 32  # smaller images have no pixels in the last stage
EPSILON = 1e-6  # added to the variance in all normalisations


class ConvNeXt(nn.Module):
    """Patch embedding, stages of residual blocks, global average pooling and a dense layer.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: number of blocks in each stage.
      widths: channels in each stage.
      layer_scale_init: initial value of the layer scale.
      stochastic_depth_rate: rate in the last block; rates rise linearly from 0 in the first block.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: the lengths of `stage_sizes` and `widths` differ.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    layer_scale_init: float = 1e-6
    stochastic_depth_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_stages(stage_sizes=self.stage_sizes, widths=self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "convnext")
        conv = partial(layers.Conv, kernel_init=attention.normal, dtype=self.dtype)
        norm = partial(layers.LayerNorm, EPSILON, self.dtype)
        x = conv(self.widths[0], (4, 4), stride=4, name="stem_conv")(images)
        x = layers.feature(self, "stem", norm(name="stem_norm")(x))
        rates = iter(linear_rates(self.stochastic_depth_rate, sum(self.stage_sizes)))
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            name = f"stages_{stage}"
            if stage > 0:
                x = norm(name=f"{name}_downsample_norm")(x)
                x = conv(width, (2, 2), stride=2, name=f"{name}_downsample_conv")(x)
            for index in range(size):
                block = layers.remat(Block, self.remat)(
                    conv,
                    self.layer_scale_init,
                    drop_rate=next(rates),
                    train=train,
                    dtype=self.dtype,
                    name=f"{name}_blocks_{index}",
                )
                x = block(x)
            layers.feature(self, f"stage{stage + 1}", x)
        x = norm(name="head_norm")(ops.global_avg_pool(x))  # [B, C]
        head = partial(nn.Dense, kernel_init=attention.normal, dtype=self.dtype, name="head_fc")
        return layers.logits(x, self.num_classes, head)


class Block(nn.Module):
    """Depthwise convolution and MLP with a shortcut, `[B, H, W, C]` to the same shape (Fig. 4).

    Attributes:
      conv: builds a convolution; takes features, kernel size, padding, groups and name.
      layer_scale_init: initial value of the layer scale.
      drop_rate: rate of stochastic depth.
      train: whether stochastic depth is active.
      dtype: dtype of the computation.
    """

    conv: layers.ModuleDef
    layer_scale_init: float
    drop_rate: float
    train: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = self.conv(channels, (7, 7), padding="HALF", groups=channels, name="conv_dw")(x)
        y = layers.LayerNorm(EPSILON, self.dtype, name="norm")(y)
        y = attention.Mlp(0.0, self.train, self.dtype, name="mlp")(y)
        y = attention.LayerScale(self.layer_scale_init, name="layer_scale")(y)
        return x + stochastic_depth(y, self.drop_rate, train=self.train)


def _variant(stage_sizes: tuple[int, ...], widths: tuple[int, ...], rate: float) -> layers.Variant:
    build = partial(ConvNeXt, stage_sizes=stage_sizes, widths=widths, stochastic_depth_rate=rate)
    return layers.Variant(build, (224, 224, 3))


# Rates of stochastic depth from Table 5, for training on ImageNet-1K.
VARIANTS = {
    "convnext_tiny": _variant((3, 3, 9, 3), (96, 192, 384, 768), 0.1),
    "convnext_small": _variant((3, 3, 27, 3), (96, 192, 384, 768), 0.4),
    "convnext_base": _variant((3, 3, 27, 3), (128, 256, 512, 1024), 0.5),
}
