"""Swin Transformers: attention in windows that shift, on maps that shrink.

Liu et al. 2021, 'Swin Transformer: Hierarchical Vision Transformer using Shifted Windows'
(arXiv:2103.14030), Figs. 2 to 4, eqs. 3 and 4, section 3.3: Swin-T, Swin-S and Swin-B, as in timm.

Departures from the paper: images of any size from 4x4 pixels on. Pixels beyond a multiple of four
are left out; maps that windows do not cover exactly, and maps of an odd size before they are
merged, are padded with zeros at the bottom and at the right, as in timm; a map that is no larger
than a window is one window. Weights start as in the authors' code, from a normal distribution with
a deviation of 0.02, the embedding of patches from torch's uniform distribution, with a bias of
zero.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import attention, layers

PATCH_SIZE = 4
EPSILON = 1e-5  # of the normalisations


class SwinTransformer(nn.Module):
    """Embedded patches, stages of blocks with a merging of patches before all but the first.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: blocks in each stage; every second one shifts its windows.
      width: channels in the first stage; each other has twice those of the one before.
      heads: in each stage.
      window: height and width of the windows.
      stochastic_depth_rate: of the last block, rising from 0 in the first.
      dtype: what is computed in.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    width: int
    heads: tuple[int, ...]
    window: int = 7
    stochastic_depth_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        norm = partial(nn.LayerNorm, EPSILON, dtype=self.dtype)
        x = layers.feature(self, "stem", self._patches(images, norm))  # [B, H / 4, W / 4, C]
        shared: dict[str, Any] = {"dropout_rate": 0.0, "train": train, "dtype": self.dtype}
        rates = iter(layers.linear_rates(self.stochastic_depth_rate, sum(self.stage_sizes)))
        for stage, (size, heads) in enumerate(zip(self.stage_sizes, self.heads, strict=True)):
            if stage > 0:
                x = self._merged(x, norm, f"layers_{stage}_downsample")
            make_attention = partial(attention.WindowAttention, heads, window=self.window, **shared)
            for index in range(size):
                block = attention.TransformerBlock(
                    partial(make_attention, shifted=index % 2 == 1),
                    EPSILON,
                    drop_rate=next(rates),
                    **shared,
                    name=f"layers_{stage}_blocks_{index}",
                )
                x = block(x)
            layers.feature(self, f"stage{stage + 1}", x)
        x = ops.global_avg_pool(norm(name="norm")(x))  # [B, C]
        head = nn.Dense(
            self.num_classes, kernel_init=attention.normal, dtype=self.dtype, name="head_fc"
        )
        return layers.as_logits(head(x))

    def _patches(self, images: jax.Array, norm: layers.ModuleDef) -> jax.Array:
        layers.check_image_size(images, PATCH_SIZE, "swin")
        embed = layers.Conv(
            self.width,
            (PATCH_SIZE, PATCH_SIZE),
            PATCH_SIZE,
            kernel_init=attention.uniform_fan_in,
            dtype=self.dtype,
            name="patch_embed_proj",
        )
        return norm(name="patch_embed_norm")(embed(images))

    def _merged(self, x: jax.Array, norm: layers.ModuleDef, name: str) -> jax.Array:
        """Each 2x2 pixels as one with twice the channels, `[B, H, W, C]` to `[B, H', W', 2C]`."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # Down before across: the order in which the authors concatenate them.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        reduce = nn.Dense(
            2 * channels,
            use_bias=False,
            kernel_init=attention.normal,
            dtype=self.dtype,
            name=f"{name}_reduction",
        )
        return reduce(norm(name=f"{name}_norm")(x))


def _variant(
    stage_sizes: tuple[int, ...], width: int, heads: tuple[int, ...], rate: float
) -> layers.Variant:
    build = partial(
        SwinTransformer,
        stage_sizes=stage_sizes,
        width=width,
        heads=heads,
        stochastic_depth_rate=rate,
    )
    return layers.Variant(build, (224, 224, 3))


VARIANTS = {
    "swin_tiny_patch4_window7_224": _variant((2, 2, 6, 2), 96, (3, 6, 12, 24), 0.2),
    "swin_small_patch4_window7_224": _variant((2, 2, 18, 2), 96, (3, 6, 12, 24), 0.3),
    "swin_base_patch4_window7_224": _variant((2, 2, 18, 2), 128, (4, 8, 16, 32), 0.5),
}
