"""ResNet v2: residual networks with pre-activation blocks.

He, Zhang, Ren & Sun 2016, 'Identity Mappings in Deep Residual Networks', ECCV (arXiv:1603.05027),
Fig. 4(e), full pre-activation. Bottlenecks and stages are those of 'Deep Residual Learning for
Image Recognition' (arXiv:1512.03385), Table 1. `resnetv2_50`, `resnetv2_101` and `resnetv2_152` are
as in timm, with 25,549,352, 44,541,480 and 60,185,128 parameters for 1000 classes.

`resnetv2_50_keras` is Keras' ResNet50V2. It has the stride in the last block of a stage instead of
the first block of the next. It pads with zeros before the max-pooling, and it has biases in the
convolutions that no normalisation follows.

Departures from the paper: the stride of bottlenecks is in their 3x3 convolution instead of the
first 1x1. The first normalisation follows the pooling and belongs to the first block; in the
paper's appendix it precedes the pooling. The initialisation is He normal with the fan-out. The
classifier's weights are normal with standard deviation 0.01.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers
from cnn_jax.models.dropout import Dropout, linear_rates, stochastic_depth


class ResNetV2(nn.Module):
    """ResNet v2: a stem, stages of bottlenecks, a normalisation, global pooling, a dense layer.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: number of blocks in each stage.
      widths: channels of the 3x3 convolutions in each stage. Blocks return four times as many.
      stride_last: if True, the last block of each stage but the last has the stride. If False, the
        first block of each stage but the first has it.
      zero_padded_pooling: if True, the stem's max-pooling pads with zeros, which exceed the
        negative values at the border. If False, it pads with minus infinity.
      conv_bias: if True, the convolutions that no normalisation follows have biases.
      epsilon: constant added to the variance in batch normalisation.
      stochastic_depth_rate: rate of the last block. It rises linearly from 0 in the first block.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: the lengths of `stage_sizes` and `widths` differ.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stride_last: bool = False
    zero_padded_pooling: bool = False
    conv_bias: bool = False
    epsilon: float = 1e-5
    stochastic_depth_rate: float = 0.0
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_stages(stage_sizes=self.stage_sizes, widths=self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        conv = partial(
            layers.Conv,
            padding="HALF",
            use_bias=False,
            kernel_init=layers.he_normal_fan_out,
            dtype=self.dtype,
        )
        norm = layers.batch_norm(train=train, dtype=self.dtype, epsilon=self.epsilon)
        stem = conv(self.widths[0], (7, 7), 2, use_bias=self.conv_bias, name="stem_conv")
        x = self._pool(layers.feature(self, "stem", stem(images)))
        block = partial(
            layers.remat(Bottleneck, self.remat),
            conv=conv,
            norm=norm,
            bias=self.conv_bias,
            train=train,
        )
        rates = iter(linear_rates(self.stochastic_depth_rate, sum(self.stage_sizes)))
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 1):
            for index in range(size):
                x = block(
                    channels=width,
                    stride=2 if self._has_stride(stage, index) else 1,
                    projects=index == 0,
                    drop_rate=next(rates),
                    name=f"stage{stage}_{index}",
                )(x)
            layers.feature(self, f"stage{stage}", x)
        x = ops.global_avg_pool(nn.relu(norm(name="norm")(x)))  # [B, C]
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        init = nn.initializers.normal(0.01)
        head = partial(nn.Dense, kernel_init=init, dtype=self.dtype, name="head_fc")
        return layers.logits(x, self.num_classes, head)

    def _pool(self, x: jax.Array) -> jax.Array:
        if self.zero_padded_pooling:
            return ops.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        return ops.max_pool(x, 3, 2, padding=1)

    def _has_stride(self, stage: int, index: int) -> bool:
        """Returns True if block `index` (from 0) of `stage` (from 1) has a stride of 2."""
        if self.stride_last:
            return stage < len(self.stage_sizes) and index == self.stage_sizes[stage - 1] - 1
        return stage > 1 and index == 0


class Bottleneck(nn.Module):
    """Pre-activation bottleneck: 1x1, 3x3 and 1x1 convolutions and a shortcut.

    Normalisation and ReLU precede each convolution. Maps `[B, H, W, C]` to
    `[B, H / stride, W / stride, 4 channels]`.

    Attributes:
      channels: channels of the 3x3 convolution.
      stride: stride of the 3x3 convolution.
      projects: if True, the shortcut is a 1x1 convolution of the normalised and activated input. If
        False, it is the input, subsampled by `stride`.
      drop_rate: rate of stochastic depth.
      conv: builds a convolution without bias; takes features, kernel size and stride.
      norm: builds a normalisation in training or evaluation mode; takes a name.
      bias: if True, the last convolution and the shortcut's convolution have biases.
      train: whether stochastic depth is active.
    """

    channels: int
    stride: int
    projects: bool
    drop_rate: float
    conv: layers.ModuleDef
    norm: layers.ModuleDef
    bias: bool
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = 4 * self.channels
        y = nn.relu(self.norm(name="norm1")(x))
        if self.projects:
            project = partial(self.conv, use_bias=self.bias, name="downsample_conv")
            shortcut = project(features, (1, 1), self.stride)(y)
        else:
            shortcut = x[:, :: self.stride, :: self.stride]
        y = self.conv(self.channels, (1, 1), name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.channels, (3, 3), self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="norm3")(y))
        y = self.conv(features, (1, 1), use_bias=self.bias, name="conv3")(y)
        return shortcut + stochastic_depth(y, self.drop_rate, train=self.train)


def _variant(stage_sizes: tuple[int, ...], **fields: Any) -> layers.Variant:
    return layers.Variant(partial(ResNetV2, stage_sizes=stage_sizes, **fields), (224, 224, 3))


VARIANTS = {
    "resnetv2_50": _variant((3, 4, 6, 3)),
    "resnetv2_101": _variant((3, 4, 23, 3)),
    "resnetv2_152": _variant((3, 8, 36, 3)),
    "resnetv2_50_keras": _variant(
        (3, 4, 6, 3),
        stride_last=True,
        zero_padded_pooling=True,
        conv_bias=True,
        epsilon=1.001e-5,
    ),
}
