"""Vision Transformers: transformers on the sequence of an image's patches.

Dosovitskiy et al. 2020, 'An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale' (arXiv:2010.11929), Fig. 1, eqs. 1 to 4. `vit_base_patch16_224` is ViT-Base of Table 1 with
patches of 16x16 pixels. `vit_small_patch16_224` and `vit_tiny_patch16_224` are the smaller networks
of Touvron et al. 2020 (arXiv:2012.12877), Table 1, without distillation. All are as in timm.

Departures from the paper: the classifier is one dense layer, which the paper uses for fine-tuning.
For pre-training the paper adds a hidden layer.

The initialisation is that of timm: weights are normal with standard deviation 0.02, and the class
token has standard deviation 1e-6. The patch embedding has PyTorch's default uniform initialisation
and zero bias.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.models import attention, layers, shapes
from cnn_jax.models.dropout import Dropout, linear_rates

EPSILON = 1e-6  # of layer normalisation


class VisionTransformer(nn.Module):
    """Vision Transformer: patch embedding, class token, transformer blocks, a dense layer.

    Each patch has its own position embedding, so the parameter shapes depend on the image size.

    Attributes:
      num_classes: the number of logits.
      width: channels of each token.
      depth: number of transformer blocks.
      heads: number of attention heads.
      patch_size: height and width of the patches, in pixels.
      dropout_rate: rate of the dropout after the position embedding and after each dense layer,
        except for the query, key and value projections and the classifier (appendix B.1).
      stochastic_depth_rate: rate of the last block. It rises linearly from 0 in the first block.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      ValueError: height or width of the images is not a multiple of `patch_size`.
    """

    num_classes: int
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch_size: int = 16
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        patches = layers.feature(self, "stem", self._embed_patches(images))
        x = self._tokens(patches, images)  # [B, 1 + N, C] for N patches
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        shared: dict[str, Any] = {
            "dropout_rate": self.dropout_rate,
            "train": train,
            "dtype": self.dtype,
        }
        make_attention = partial(attention.Attention, self.heads, **shared)
        block = layers.remat(attention.TransformerBlock, self.remat)
        block = partial(block, make_attention, EPSILON, **shared)
        quarters = {self.depth * quarter // 4: quarter for quarter in range(1, 5)}
        rates = linear_rates(self.stochastic_depth_rate, self.depth)
        for index, rate in enumerate(rates):
            x = block(drop_rate=rate, name=f"blocks_{index}")(x)
            if index + 1 in quarters:
                name = f"stage{quarters[index + 1]}"
                layers.feature(self, name, shapes.reshape(x[:, 1:], *patches.shape))
        x = layers.LayerNorm(EPSILON, self.dtype, name="norm")(x)
        head = partial(nn.Dense, kernel_init=attention.normal, dtype=self.dtype, name="head")
        return layers.logits(x[:, 0], self.num_classes, head)

    def _embed_patches(self, images: jax.Array) -> jax.Array:
        """Returns one embedding per patch, `[B, H / patch_size, W / patch_size, C]`."""
        size = self.patch_size
        layers.check_image_size(images, size, "vit")
        height, width = images.shape[1:3]
        if height % size or width % size:
            raise errors.UserError(
                f"vit needs images whose height and width are multiples of {size} pixels, "
                f"got {height}x{width}; set data.image_size or model.patch_size"
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

    def _tokens(self, patches: jax.Array, images: jax.Array) -> jax.Array:
        """Returns class token and patches plus position embeddings, `[B, 1 + H W, C]`."""
        batch, height, width, channels = patches.shape
        near_zero = nn.initializers.normal(1e-6)
        token = self.param("cls_token", near_zero, (1, 1, channels), jnp.float32)
        shape = (1, 1 + height * width, channels)
        shapes.check_parameter(self, "pos_embed", shape, images)
        positions = self.param("pos_embed", attention.normal, shape, jnp.float32)
        first = jnp.broadcast_to(
            token.astype(patches.dtype),
            (batch, 1, channels),
            out_sharding=shapes.batch_sharding(patches),
        )
        rest = shapes.reshape(patches, batch, height * width, channels)
        x = jnp.concatenate([first, rest], axis=1)
        return x + positions.astype(x.dtype)


def _variant(width: int, heads: int) -> layers.Variant:
    return layers.Variant(partial(VisionTransformer, width=width, heads=heads), (224, 224, 3))


VARIANTS = {
    "vit_tiny_patch16_224": _variant(192, 3),
    "vit_small_patch16_224": _variant(384, 6),
    "vit_base_patch16_224": _variant(768, 12),
}
