"""Swin Transformers: hierarchical vision transformers with attention in shifted windows.

Liu et al. 2021, 'Swin Transformer: Hierarchical Vision Transformer using Shifted Windows'
(arXiv:2103.14030), Figs. 2 to 4, eqs. 3 and 4, section 3.3: Swin-T, Swin-S and Swin-B, as in timm.

Departures from the paper: images may have any size from 4x4 pixels. Rows and columns beyond a
multiple of 4 pixels are dropped. Feature maps are padded with zeros at the bottom and right, as in
timm, to a multiple of the window, and to an even size before patch merging. A feature map that is
no larger than a window forms one window.

The initialisation is that of the authors' code: weights are normal with standard deviation 0.02.
The patch embedding has PyTorch's default uniform initialisation and zero bias.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import attention, layers, shapes
from cnn_jax.models.dropout import linear_rates

PATCH_SIZE = 4
EPSILON = 1e-5  # of layer normalisation


class SwinTransformer(nn.Module):
    """Swin Transformer: patch embedding, stages of transformer blocks, global average pooling.

    Patch merging precedes all stages but the first.

    Attributes:
      num_classes: the number of logits.
      stage_sizes: number of blocks in each stage. Every second block shifts its windows.
      width: channels in the first stage. Each further stage doubles them.
      heads: number of attention heads in each stage.
      window: height and width of the windows, in pixels of the feature map.
      stochastic_depth_rate: rate of the last block. It rises linearly from 0 in the first block.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: the lengths of `stage_sizes` and `heads` differ.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    width: int
    heads: tuple[int, ...]
    window: int = 7
    stochastic_depth_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        layers.check_stages(stage_sizes=self.stage_sizes, heads=self.heads)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        norm = partial(layers.LayerNorm, EPSILON, self.dtype)
        x = layers.feature(self, "stem", self._embed_patches(images, norm))  # [B, H / 4, W / 4, C]
        shared: dict[str, Any] = {"dropout_rate": 0.0, "train": train, "dtype": self.dtype}
        rates = iter(linear_rates(self.stochastic_depth_rate, sum(self.stage_sizes)))
        for stage, (size, heads) in enumerate(zip(self.stage_sizes, self.heads, strict=True)):
            if stage > 0:
                x = self._merge_patches(x, norm, f"layers_{stage}_downsample")
            make_attention = partial(attention.WindowAttention, heads, window=self.window, **shared)
            for index in range(size):
                block = layers.remat(attention.TransformerBlock, self.remat)(
                    partial(make_attention, shifted=index % 2 == 1),
                    EPSILON,
                    drop_rate=next(rates),
                    **shared,
                    name=f"layers_{stage}_blocks_{index}",
                )
                x = block(x)
            layers.feature(self, f"stage{stage + 1}", x)
        x = ops.global_avg_pool(norm(name="norm")(x))  # [B, C]
        head = partial(nn.Dense, kernel_init=attention.normal, dtype=self.dtype, name="head_fc")
        return layers.logits(x, self.num_classes, head)

    def _embed_patches(self, images: jax.Array, norm: layers.ModuleDef) -> jax.Array:
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

    def _merge_patches(self, x: jax.Array, norm: layers.ModuleDef, name: str) -> jax.Array:
        """Merges 2x2 patches: `[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), 2 C]`."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = shapes.reshape(x, batch, height // 2, 2, width // 2, 2, channels)
        # Concatenates the pixels of a 2x2 patch column by column, as the authors' code does.
        x = x.transpose(0, 1, 3, 4, 2, 5)
        x = shapes.reshape(x, batch, height // 2, width // 2, 4 * channels)
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
