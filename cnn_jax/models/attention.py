"""What transformers share, and ConvNeXt in part: attention, MLP, layer scale, and the block.

Vaswani et al. 2017, 'Attention Is All You Need' (arXiv:1706.03762), section 3.2; in windows of an
image Liu et al. 2021 (arXiv:2103.14030), section 3.2. Children have timm's names. Weights start
from a normal distribution with a deviation of 0.02, biases from zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.models import layers

# The authors' code truncates it at 2, which is a hundred deviations: nothing is cut.
normal: Initializer = nn.initializers.normal(0.02)
# Of convolutions that embed patches, which the authors leave as torch does.
uniform_fan_in: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

MASKED = -100.0  # what is added to the logit of a pair that must not attend, as in Swin's code

Pair = tuple[int, int]


class Mlp(nn.Module):
    """Two dense layers, the hidden one four times as wide, `[..., C]` to the same.

    Attributes:
      dropout_rate: after each of them.
      train: whether dropout is on.
      dtype: what is computed in.
    """

    dropout_rate: float
    train: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = nn.Dense(4 * channels, kernel_init=normal, dtype=self.dtype, name="fc1")(x)
        y = nn.gelu(y, approximate=False)
        y = nn.Dropout(self.dropout_rate, deterministic=not self.train)(y)
        y = nn.Dense(channels, kernel_init=normal, dtype=self.dtype, name="fc2")(y)
        return nn.Dropout(self.dropout_rate, deterministic=not self.train)(y)


class LayerScale(nn.Module):
    """Each channel times a parameter `gamma` of its own, `[..., C]` to the same.

    Touvron et al. 2021 (arXiv:2103.17239), section 2.

    Attributes:
      initial: what the parameters start from.
    """

    initial: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(self.initial)
        gamma = self.param("gamma", init, x.shape[-1:], jnp.float32)
        return x * gamma.astype(x.dtype)


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Scaled dot-product attention (eq. 1) in each head, with a softmax in float32 at least.

    Args:
      query: `[..., N, heads, D]`.
      key: the same.
      value: the same.
      bias: of the logits, `[..., heads, N, N]`, queries first, or what broadcasts to that.

    Returns:
      `[..., N, heads, D]`.
    """
    precise = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=precise)
    logits *= query.shape[-1] ** -0.5
    if bias is not None:
        logits += bias.astype(precise)
    weights = nn.softmax(logits).astype(value.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


class Attention(nn.Module):
    """Multi-head self-attention, `[..., N, C]` to the same.

    Attributes:
      heads: into how many the channels fall.
      dropout_rate: after the last layer.
      train: whether dropout is on.
      dtype: what is computed in.

    Raises:
      ValueError: heads that do not divide the channels.
    """

    heads: int
    dropout_rate: float
    train: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.attend(x)

    def attend(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """The result, with the bias of `attention`."""
        channels = x.shape[-1]
        if self.heads < 1 or channels % self.heads:
            raise errors.UserError(
                f"model.heads must divide the {channels} channels, got {self.heads}"
            )
        qkv = nn.Dense(3 * channels, kernel_init=normal, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(*x.shape[:-1], 3, self.heads, channels // self.heads)
        query, key, value = jnp.moveaxis(qkv, -3, 0)
        y = attention(query, key, value, bias).reshape(x.shape)
        y = nn.Dense(channels, kernel_init=normal, dtype=self.dtype, name="proj")(y)
        return nn.Dropout(self.dropout_rate, deterministic=not self.train)(y)


class WindowAttention(Attention):
    """Self-attention within windows of an image, `[B, H, W, C]` to the same.

    An image that is no larger than a window is one window, which cannot shift; the table of biases
    is for the largest window all the same, so that parameters do not depend on the image. As in
    timm, an image that windows do not cover exactly is padded after the shift, with zeros at the
    bottom and at the right that take part.

    Attributes:
      window: height and width.
      shifted: whether windows are shifted by half their size, cyclically.
    """

    window: int
    shifted: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[1:3]
        window = (min(self.window, height), min(self.window, width))
        step = self.window // 2 if self.shifted else 0
        shift = (step * (height > self.window), step * (width > self.window))
        x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2))
        x = jnp.pad(x, ((0, 0), (0, -height % window[0]), (0, -width % window[1]), (0, 0)))
        size = (x.shape[1], x.shape[2])
        y = self.attend(partition(x, window), self._bias(size, window, shift))
        y = merge(y, window, size)[:, :height, :width]
        return jnp.roll(y, shift, axis=(1, 2))

    def _bias(self, size: Pair, window: Pair, shift: Pair) -> jax.Array:
        """`[1 or windows, heads, N, N]`."""
        shape = (self.heads, (2 * self.window - 1) ** 2)
        table = self.param("relative_position_bias_table", normal, shape, jnp.float32)
        bias = table[None, :, relative_positions(window, self.window)]
        return bias + shift_mask(size, window, shift) if any(shift) else bias


def partition(x: jax.Array, window: Pair) -> jax.Array:
    """The windows of an image, `[B, H, W, C]` to `[B, windows, pixels in each, C]`."""
    batch, height, width, channels = x.shape
    rows, columns = height // window[0], width // window[1]
    x = x.reshape(batch, rows, window[0], columns, window[1], channels).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, window[0] * window[1], channels)


def merge(windows: jax.Array, window: Pair, size: Pair) -> jax.Array:
    """The image of that size that `partition` made these windows of."""
    rows, columns = size[0] // window[0], size[1] // window[1]
    x = windows.reshape(-1, rows, columns, *window, windows.shape[-1]).swapaxes(2, 3)
    return x.reshape(-1, *size, windows.shape[-1])


def relative_positions(window: Pair, largest: int) -> np.ndarray:
    """Where a pair of pixels of a window is in the table of biases, `[N, N]`, queries first.

    The table goes over the differences in rows, then in columns, from `1 - largest` to
    `largest - 1`.

    >>> relative_positions((1, 2), largest=2)
    array([[4, 3],
           [5, 4]])
    """
    rows, columns = (np.arange(size)[:, None] - np.arange(size) + largest - 1 for size in window)
    places = (2 * largest - 1) * rows[:, None, :, None] + columns[None, :, None, :]
    return places.reshape(window[0] * window[1], -1)


def shift_mask(size: Pair, window: Pair, shift: Pair) -> np.ndarray:
    """What keeps pixels apart that only the shift made neighbours, `[windows, 1, N, N]`.

    >>> shift_mask((1, 4), (1, 2), (0, 1))[1, 0]
    array([[   0., -100.],
           [-100.,    0.]])
    """
    rows, columns = (  # whether a pixel came over the border, `[windows along the axis, pixels]`
        (np.arange(size[i]) >= size[i] - shift[i]).reshape(-1, window[i]) for i in range(2)
    )
    origins = 2 * rows[:, None, :, None] + columns[None, :, None, :]
    origins = origins.reshape(-1, 1, window[0] * window[1])
    return np.where(origins[..., :, None] == origins[..., None, :], 0, MASKED)


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each after a normalisation and beside a shortcut, `[..., C]`.

    Attributes:
      attention: makes the attention; takes a name.
      epsilon: of the normalisations.
      dropout_rate: of the MLP.
      drop_rate: of stochastic depth.
      train: whether dropout and stochastic depth are on.
      dtype: what is computed in.
    """

    attention: layers.ModuleDef
    epsilon: float
    dropout_rate: float
    drop_rate: float
    train: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm1")(x)
        y = self.attention(name="attn")(y)
        x = x + layers.stochastic_depth(y, self.drop_rate, train=self.train)
        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm2")(x)
        y = Mlp(self.dropout_rate, self.train, self.dtype, name="mlp")(y)
        return x + layers.stochastic_depth(y, self.drop_rate, train=self.train)
