"""Squeeze-and-excitation networks: residual blocks that weigh their channels.

Hu, Shen, Albanie, Sun & Wu 2017, 'Squeeze-and-Excitation Networks' (arXiv:1709.01507).
`seresnet50` and `seresnext50_32x4d`, timm's, are Table 1's in the ResNets of `resnet.py`.
`legacy_seresnet50`, SE-ResNet-50 as the authors released it with Caffe, halves the image in the
first 1x1 convolution of a block. `senet154` is the appendix's and the authors' last: a ResNeXt-152
of 64 groups, with a deep stem, narrower blocks and 3x3 shortcuts.

Departures from the paper: none but that `seresnet50` halves the image in the 3x3 convolution. The
released two pool after the stem without padding, the last window over the border, as Caffe did,
and so they do here. Weights start from He's normal distribution over the fan-out.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers, resnet

MIN_IMAGE_SIZE = 3  # of the released two: less is smaller than the window of their pooling

_SQUEEZE_SHARE = 1 / 16  # r = 16 (section 4)


class SENet(nn.Module):
    """The released networks: a stem, stages of residual blocks, a dense layer on the pixels' mean.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: blocks in each stage.
      modified: whether stem, blocks and shortcuts have the appendix's changes (a), (b) and (c).
      widths: channels of each stage; blocks give four times as many.
      groups: of the 3x3 convolutions in blocks.
      squeeze_share: channels of squeeze-and-excitation, as a share of the block's.
      dropout_rate: before the classifier.
      dtype: what is computed in.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    modified: bool
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    squeeze_share: float = _SQUEEZE_SHARE
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "senet")
        conv = partial(
            layers.Conv,
            padding="HALF",
            use_bias=False,
            kernel_init=layers.he_normal_fan_out,
            dtype=self.dtype,
        )
        norm = layers.batch_norm(train=train, dtype=self.dtype)
        x = layers.feature(self, "stem", self._stem(images, conv, norm))
        x = ops.max_pool(x, 3, 2, ceil_mode=True)
        block = self._block(conv, norm, train)
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 1):
            for index in range(size):
                x = block(
                    channels=width,
                    stride=2 if index == 0 and stage > 1 else 1,
                    reshapes=index == 0,
                    name=f"layer{stage}_{index}",
                )(x)
            layers.feature(self, f"stage{stage}", x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(ops.global_avg_pool(x))
        dense = nn.Dense(self.num_classes, dtype=self.dtype, name="last_linear")
        return layers.as_logits(dense(x))

    def _stem(self, images: jax.Array, conv: layers.ModuleDef, norm: layers.ModuleDef) -> jax.Array:
        width = self.widths[0]
        convolutions = [(width, 7, 2)]
        if self.modified:
            convolutions = [(width, 3, 2), (width, 3, 1), (2 * width, 3, 1)]
        x = images
        for i, (features, size, stride) in enumerate(convolutions, 1):
            x = conv(features, (size, size), stride, name=f"conv{i}")(x)
            x = nn.relu(norm(name=f"bn{i}")(x))
        return x

    def _block(
        self, conv: layers.ModuleDef, norm: layers.ModuleDef, train: bool
    ) -> layers.ModuleDef:
        block: layers.ModuleDef = NarrowBottleneck
        if not self.modified:
            block = partial(resnet.Bottleneck, expansion=1.0, stride_first=True)
        project = _wide_projection if self.modified else resnet.projection
        return partial(
            block,
            drop_rate=0.0,
            conv=conv,
            norm=norm,
            shortcut=partial(project, conv=conv, norm=norm),
            squeeze_share=self.squeeze_share,
            zero_init=False,
            train=train,
            groups=self.groups,
        )


class NarrowBottleneck(resnet.Block):
    """1x1, 3x3 and 1x1 convolutions, the first with half the channels (the appendix's (a)).

    Attributes:
      groups: of the 3x3 convolution.
    """

    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = 4 * self.channels
        y = self.conv(features // 2, (1, 1), name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(features, (3, 3), self.stride, groups=self.groups, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(features, (1, 1), name="conv3")(y)
        return self.add(self.norm(name="bn3", scale_init=self.last_scale_init)(y), x)


def _wide_projection(
    x: jax.Array, features: int, stride: int, *, conv: layers.ModuleDef, norm: layers.ModuleDef
) -> jax.Array:
    """A projection that leaves no pixel out: 3x3 where the stride is 2 (the appendix's (c))."""
    kernel_size = (3, 3) if stride > 1 else (1, 1)
    y = conv(features, kernel_size, stride, name="downsample_conv")(x)
    return norm(name="downsample_bn")(y)


def _residual(**fields: Any) -> layers.Variant:
    build = partial(
        resnet.ResNet,
        stage_sizes=resnet.IMAGENET_SIZES[50],
        squeeze_share=_SQUEEZE_SHARE,
        **fields,
    )
    return layers.Variant(build, (224, 224, 3))


def _released(depth: int, **fields: Any) -> layers.Variant:
    build = partial(SENet, stage_sizes=resnet.IMAGENET_SIZES[depth], **fields)
    return layers.Variant(build, (224, 224, 3))


VARIANTS = {
    "seresnet50": _residual(),
    "seresnext50_32x4d": _residual(groups=32, width_per_group=4),
    "legacy_seresnet50": _released(50, modified=False),
    "senet154": _released(152, modified=True, groups=64, dropout_rate=0.2),
}
