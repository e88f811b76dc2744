"""Vision Transformers: transformers on the sequence of an image's patches.

Dosovitskiy et al. 2020, 'An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale' (arXiv:2010.11929), Fig. 1, eqs. 1 to 4. `vit_base_patch16_224` is ViT-Base of Table 1 with
patches of 16x16 pixels. `vit_small_patch16_224` and `vit_tiny_patch16_224` are the smaller networks
of Touvron et al. 2020 (arXiv:2012.12877), Table 1, without distillation. All are as in timm.

Beyer, Zhai & Kolesnikov 2022, 'Better plain ViT baselines for ImageNet-1k' (arXiv:2205.01580): a
ViT without class token and with fixed position embeddings. It is the network of big_vision's
`configs/vit_s16_i1k.py`, by the options `pooling`, `positions`, `hidden_head`, `approximate_gelu`
and `initialization`.

Departures from the paper: by default the classifier is one dense layer, which the paper uses for
fine-tuning. For pre-training the paper adds a hidden layer with tanh; so does `hidden_head`.

The initialisation of timm: weights are normal with standard deviation 0.02, and the class token has
standard deviation 1e-6. The patch embedding has PyTorch's default uniform initialisation and zero
bias.

The initialisation of big_vision (`big_vision/models/vit.py`): the weights of blocks are uniform
(Glorot & Bengio 2010), separately for queries, keys and values. The biases of the MLP are normal
with standard deviation 1e-6, and the classifier is zero. The patch embedding and the hidden layer
of the head have Flax's default initialisation.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.models import attention, layers, shapes
from cnn_jax.models.dropout import Dropout, linear_rates

EPSILON = 1e-6  # of layer normalisation
TEMPERATURE = 10_000.0  # of `sincos2d`
POOLINGS = ("mean", "token")
POSITIONS = ("learned", "sincos2d")
INITIALIZATIONS = ("big_vision", "timm")


class VisionTransformer(nn.Module):
    """Vision Transformer: patch embedding, class token, transformer blocks, a dense layer.

    With learned position embeddings the parameter shapes depend on the image size, because each
    patch has its own.

    Attributes:
      num_classes: the number of logits.
      width: channels of each token.
      depth: number of transformer blocks.
      heads: number of attention heads.
      patch_size: height and width of the patches, in pixels.
      pooling: 'token' classifies the class token. 'mean' classifies the mean over the patches; the
        network then has no class token.
      positions: position embeddings of the patches: 'learned', or fixed by `sincos2d`. Only the
        learned ones include one for the class token.
      hidden_head: whether a dense layer of `width` units with tanh precedes the classifier.
      approximate_gelu: True for the approximation of GELU with tanh.
      initialization: 'timm' or 'big_vision'.
      dropout_rate: rate of the dropout after the position embedding and after each dense layer,
        except for the query, key and value projections and the head (appendix B.1).
      stochastic_depth_rate: rate of the last block. It rises linearly from 0 in the first block.
      remat: whether the backward pass recomputes each block instead of storing its activations.
      dtype: dtype of the computation.

    Raises:
      UserError: an option has an unknown name, or height or width of the images is not a multiple
        of `patch_size`.
    """

    num_classes: int
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch_size: int = 16
    pooling: str = "token"
    positions: str = "learned"
    hidden_head: bool = False
    approximate_gelu: bool = False
    initialization: str = "timm"
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        for field, allowed in (
            ("pooling", POOLINGS),
            ("positions", POSITIONS),
            ("initialization", INITIALIZATIONS),
        ):
            if getattr(self, field) not in allowed:
                raise errors.unknown(f"model.{field}", getattr(self, field), allowed)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        patches = layers.feature(self, "stem", self._embed_patches(images))
        x = self._tokens(patches, images)  # [B, N, C], or [B, 1 + N, C] with the class token
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        block = self._block(train)
        quarters = {self.depth * quarter // 4: quarter for quarter in range(1, 5)}
        rates = linear_rates(self.stochastic_depth_rate, self.depth)
        for index, rate in enumerate(rates):
            x = block(drop_rate=rate, name=f"blocks_{index}")(x)
            if index + 1 in quarters:
                name = f"stage{quarters[index + 1]}"
                layers.feature(self, name, shapes.reshape(self._patches(x), *patches.shape))
        return self._classify(layers.LayerNorm(EPSILON, self.dtype, name="norm")(x))

    @property
    def _initial(self) -> "Initial":
        return _BIG_VISION if self.initialization == "big_vision" else _TIMM

    def _block(self, train: bool) -> layers.ModuleDef:
        """Returns the constructor of transformer blocks; it takes `drop_rate` and `name`."""
        shared: dict[str, Any] = {
            "dropout_rate": self.dropout_rate,
            "train": train,
            "dtype": self.dtype,
        }
        initial = self._initial
        make_attention = partial(
            attention.Attention,
            self.heads,
            qkv_init=initial.qkv,
            proj_init=initial.dense,
            **shared,
        )
        make_mlp = partial(
            attention.Mlp,
            approximate_gelu=self.approximate_gelu,
            kernel_init=initial.dense,
            bias_init=initial.mlp_bias,
        )
        block = layers.remat(attention.TransformerBlock, self.remat)
        return partial(block, make_attention, EPSILON, mlp=make_mlp, **shared)

    def _patches(self, x: jax.Array) -> jax.Array:
        """Returns the tokens of the patches, `[B, N, C]`."""
        return x[:, 1:] if self.pooling == "token" else x

    def _classify(self, x: jax.Array) -> jax.Array:
        """Returns the logits `[B, K]` for the normalised tokens."""
        x = x[:, 0] if self.pooling == "token" else x.mean(1)
        dense = partial(nn.Dense, dtype=self.dtype)
        if self.hidden_head:
            hidden = dense(self.width, kernel_init=self._initial.hidden, name="pre_logits")
            x = jnp.tanh(hidden(x))
        head = partial(dense, kernel_init=self._initial.head, name="head")
        return layers.logits(x, self.num_classes, head)

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
            kernel_init=self._initial.patches,
            dtype=self.dtype,
            name="patch_embed_proj",
        )
        return embed(images)

    def _tokens(self, patches: jax.Array, images: jax.Array) -> jax.Array:
        """Returns the tokens plus position embeddings, `[B, N, C]` or `[B, 1 + N, C]`."""
        batch, height, width, channels = patches.shape
        x = shapes.reshape(patches, batch, height * width, channels)
        if self.positions == "sincos2d":
            x += jnp.asarray(sincos2d(height, width, channels)[None], x.dtype)
        if self.pooling == "token":
            x = self._with_class_token(x)
        if self.positions == "learned":
            shape = (1, *x.shape[1:])
            shapes.check_parameter(self, "pos_embed", shape, images)
            positions = self.param("pos_embed", attention.normal, shape, jnp.float32)
            x += positions.astype(x.dtype)
        return x

    def _with_class_token(self, x: jax.Array) -> jax.Array:
        """Returns `[B, 1 + N, C]`: the class token, followed by the tokens `x` `[B, N, C]`."""
        batch, _, channels = x.shape
        near_zero = nn.initializers.normal(1e-6)
        token = self.param("cls_token", near_zero, (1, 1, channels), jnp.float32)
        first = jnp.broadcast_to(
            token.astype(x.dtype), (batch, 1, channels), out_sharding=shapes.batch_sharding(x)
        )
        return jnp.concatenate([first, x], axis=1)


def sincos2d(height: int, width: int, channels: int) -> np.ndarray:
    """Returns fixed position embeddings of patches in row-major order, `[height width, channels]`.

    The channels have four equal parts: sine of the column, cosine of the column, sine of the row,
    cosine of the row. The frequencies fall geometrically from 1 to 1 / `TEMPERATURE`. Source: Chen,
    Xie & He 2021 (arXiv:2104.02057), as in `posemb_sincos_2d` of big_vision.

    Raises:
      UserError: `channels` is not a multiple of 4, or is less than 8.

    >>> sincos2d(1, 2, 8)[1, :2].round(4).tolist()
    [0.8415, 0.0001]
    """
    if channels % 4 or channels < 8:
        raise errors.UserError(
            "model.width must be a multiple of 4 and at least 8 for model.positions 'sincos2d', "
            f"got {channels}"
        )
    frequencies = TEMPERATURE ** -np.linspace(0, 1, channels // 4)
    rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1) * frequencies
    return np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=1)


def _each_third(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Initialises the kernels of queries, keys and values separately, in one array `[C, 3 C]`."""
    channels = shape[-1] // 3
    parts = [
        layers.glorot_uniform(one, (*shape[:-1], channels), dtype)
        for one in jax.random.split(key, 3)
    ]
    return jnp.concatenate(parts, axis=-1)


class Initial(NamedTuple):
    """Initialisers of a Vision Transformer.

    Attributes:
      patches: kernel of the patch embedding.
      qkv: kernel of the query, key and value projections.
      dense: other kernels of the blocks.
      mlp_bias: biases of the MLP. All other biases start at 0.
      hidden: kernel of the hidden layer of the head.
      head: kernel of the classifier.
    """

    patches: Initializer
    qkv: Initializer
    dense: Initializer
    mlp_bias: Initializer
    hidden: Initializer
    head: Initializer


_TIMM = Initial(
    patches=attention.uniform_fan_in,
    qkv=attention.normal,
    dense=attention.normal,
    mlp_bias=nn.initializers.zeros_init(),
    hidden=attention.normal,
    head=attention.normal,
)
_BIG_VISION = Initial(
    patches=nn.initializers.lecun_normal(),
    qkv=_each_third,
    dense=layers.glorot_uniform,
    mlp_bias=nn.initializers.normal(1e-6),
    hidden=nn.initializers.lecun_normal(),
    head=nn.initializers.zeros_init(),
)


def _variant(width: int, heads: int) -> layers.Variant:
    return layers.Variant(partial(VisionTransformer, width=width, heads=heads), (224, 224, 3))


VARIANTS = {
    "vit_tiny_patch16_224": _variant(192, 3),
    "vit_small_patch16_224": _variant(384, 6),
    "vit_base_patch16_224": _variant(768, 12),
}
