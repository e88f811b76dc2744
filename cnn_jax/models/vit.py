"""Vision Transformers: an image as a sequence of patches.

Dosovitskiy et al. 2020, 'An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale' (arXiv:2010.11929), Fig. 1, eqs. 1 to 4: `vit_base_patch16_224` is ViT-Base of Table 1 with
patches of 16 pixels. `vit_small_patch16_224` and `vit_tiny_patch16_224` are the smaller ones of
Touvron et al. 2020 (arXiv:2012.12877), Table 1, without distillation. All as in timm.

Departures from the paper: the classifier is one dense layer, which is the paper's for fine-tuning,
not the one with a hidden layer for pre-training. Weights start as in timm, from a normal
distribution with a deviation of 0.02, the class token near zero, and the embedding of patches from
torch's uniform distribution, with a bias of zero.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.models import attention, layers

EPSILON = 1e-6  # of the normalisations


class VisionTransformer(nn.Module):
    """Embedded patches and a class token, transformer blocks, and a dense layer on that token.

    There is a position embedding for each patch, so that parameters depend on the image's size.

    Attributes:
      num_classes: the number of logits.
      width: channels of each token.
      depth: how many blocks.
      heads: of each attention.
      patch_size: height and width of the patches in pixels.
      dropout_rate: after the position embedding and each dense layer but those of queries, keys and
        values and the classifier (Appendix B.1).
      stochastic_depth_rate: of the last block, rising from 0 in the first.
      dtype: what is computed in.
    """

    num_classes: int
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch_size: int = 16
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        patches = layers.feature(self, "stem", self._patches(images))  # [B, H / 16, W / 16, C]
        x = self._tokens(patches)  # [B, 1 + N, C]
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        shared: dict[str, Any] = {
            "dropout_rate": self.dropout_rate,
            "train": train,
            "dtype": self.dtype,
        }
        make_attention = partial(attention.Attention, self.heads, **shared)
        block = partial(attention.TransformerBlock, make_attention, EPSILON, **shared)
        quarters = {self.depth * quarter // 4: quarter for quarter in range(1, 5)}
        rates = layers.linear_rates(self.stochastic_depth_rate, self.depth)
        for index, rate in enumerate(rates):
            x = block(drop_rate=rate, name=f"blocks_{index}")(x)
            if index + 1 in quarters:
                name = f"stage{quarters[index + 1]}"
                layers.feature(self, name, x[:, 1:].reshape(patches.shape))
        x = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x)
        head = nn.Dense(
            self.num_classes, kernel_init=attention.normal, dtype=self.dtype, name="head"
        )
        return layers.as_logits(head(x[:, 0]))

    def _patches(self, images: jax.Array) -> jax.Array:
        size = self.patch_size
        layers.check_image_size(images, size, "vit")
        height, width = images.shape[1:3]
        if height % size or width % size:
            raise errors.UserError(
                f"vit needs images whose height and width are multiples of {size} pixels, "
                f"got {height}x{width}"
            )
        embed = layers.Conv(
            self.width,
            (size, size),
            size,
            kernel_init=attention.uniform_fan_in,
            dtype=self.dtype,
            name="patch_embed_proj",
        )
        return embed(images)

    def _tokens(self, patches: jax.Array) -> jax.Array:
        batch, height, width, channels = patches.shape
        near_zero = nn.initializers.normal(1e-6)
        token = self.param("cls_token", near_zero, (1, 1, channels), jnp.float32)
        shape = (1, 1 + height * width, channels)
        positions = self.param("pos_embed", attention.normal, shape, jnp.float32)
        first = jnp.broadcast_to(token.astype(patches.dtype), (batch, 1, channels))
        x = jnp.concatenate([first, patches.reshape(batch, height * width, channels)], axis=1)
        return x + positions.astype(x.dtype)


def _variant(width: int, heads: int) -> layers.Variant:
    return layers.Variant(partial(VisionTransformer, width=width, heads=heads), (224, 224, 3))


VARIANTS = {
    "vit_tiny_patch16_224": _variant(192, 3),
    "vit_small_patch16_224": _variant(384, 6),
    "vit_base_patch16_224": _variant(768, 12),
}
