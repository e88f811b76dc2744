"""Squeeze-and-excitation networks: residual networks with channel attention.

Hu, Shen, Albanie, Sun & Wu 2017, 'Squeeze-and-Excitation Networks' (arXiv:1709.01507).

`seresnet50` and `seresnext50_32x4d` are the networks of Table 1 as in timm, built by `resnet.py`.
`legacy_seresnet50` is SE-ResNet-50 as the authors released it with Caffe; its blocks have the
stride in the first 1x1 convolution. `senet154` is the last network the authors released, described
in the appendix: a ResNeXt-152 with 64 groups, a deep stem, narrower blocks and 3x3 shortcuts.

Departures from the paper: the blocks of `seresnet50` have the stride in the 3x3 convolution.
`legacy_seresnet50` and `senet154` pool after the stem without padding and in ceil mode, as in the
released Caffe models. The initialisation is He normal with the fan-out.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers, resnet
from cnn_jax.models.dropout import Dropout

MIN_IMAGE_SIZE = 3  # The stem's max-pooling of `SENet` has no output for smaller images.

_SQUEEZE_SHARE = 1 / 16  # reduction ratio r = 16 (section 4)


class SENet(nn.Module):
    """Squeeze-and-excitation network as the authors released it.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: number of blocks in each stage.
      modified: if True, blocks, stem and shortcuts have the appendix's changes (a), (b) and (c).
      widths: channels of each stage. Blocks return four times as many.
      groups: number of groups of the 3x3 convolutions.
      squeeze_share: channels of squeeze-and-excitation, as a share of the block's channels.
      dropout_rate: rate of the dropout before the classifier.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: the lengths of `stage_sizes` and `widths` differ.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    modified: bool
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    squeeze_share: float = _SQUEEZE_SHARE
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_stages(stage_sizes=self.stage_sizes, widths=self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
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
        x = Dropout(self.dropout_rate, deterministic=not train)(ops.global_avg_pool(x))
        head = partial(nn.Dense, dtype=self.dtype, name="last_linear")
        return layers.logits(x, self.num_classes, head)

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
        block: layers.ModuleDef = layers.remat(NarrowBottleneck, self.remat)
        if not self.modified:
            block = layers.remat(resnet.Bottleneck, self.remat)
            block = partial(block, expansion=1.0, stride_first=True)
        project = _projection_3x3 if self.modified else resnet.projection
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
    """Bottleneck whose first convolution has half the channels of the others (appendix, (a)).

    Attributes:
      groups: number of groups of the 3x3 convolution.
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


def _projection_3x3(
    x: jax.Array, features: int, stride: int, *, conv: layers.ModuleDef, norm: layers.ModuleDef
) -> jax.Array:
    """Projects with a 3x3 convolution if the stride is 2, so that no pixel is skipped.

    Otherwise, the convolution is 1x1. Source: change (c) of the appendix.
    """
    kernel_size = (3, 3) if stride > 1 else (1, 1)
    y = conv(features, kernel_size, stride, name="downsample_conv")(x)
    return norm(name="downsample_bn")(y)


def _resnet_variant(**fields: Any) -> layers.Variant:
    build = partial(
        resnet.ResNet,
        stage_sizes=resnet.IMAGENET_SIZES[50],
        squeeze_share=_SQUEEZE_SHARE,
        **fields,
    )
    return layers.Variant(build, (224, 224, 3))


def _released_variant(depth: int, **fields: Any) -> layers.Variant:
    build = partial(SENet, stage_sizes=resnet.IMAGENET_SIZES[depth], **fields)
    return layers.Variant(build, (224, 224, 3))


VARIANTS = {
    "seresnet50": _resnet_variant(),
    "seresnext50_32x4d": _resnet_variant(groups=32, width_per_group=4),
    "legacy_seresnet50": _released_variant(50, modified=False),
    "senet154": _released_variant(152, modified=True, groups=64, dropout_rate=0.2),
}
