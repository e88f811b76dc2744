"""Transformer layers: attention, MLP, layer scale and the transformer block.

Attention is that of Vaswani et al. 2017, 'Attention Is All You Need' (arXiv:1706.03762), section
3.2. Window attention is that of Liu et al. 2021 (arXiv:2103.14030), section 3.2. ConvNeXt uses the
MLP and the layer scale. Child modules have timm's names. Weights are initialised from a normal
distribution with a standard deviation of 0.02, biases with zeros, unless a module is given other
initialisers.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.models import layers, shapes
from cnn_jax.models.dropout import Dropout, stochastic_depth
from cnn_jax.ops import dtypes
from cnn_jax.ops.channels import per_channel

# The authors' code truncates the distribution at 2, a hundred standard deviations: no effect.
normal: Initializer = nn.initializers.normal(0.02)
# For the convolutions that embed patches: torch's default, which the authors keep.
uniform_fan_in: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

MASKED = -100.0  # added to the attention logit of a masked pair, as in Swin's code

Pair = tuple[int, int]


class Mlp(nn.Module):
    """Two dense layers with a GELU between them, `[..., C]` to the same shape.

    The hidden layer has `4 C` units.

    Attributes:
      dropout_rate: rate of the dropout after each dense layer.
      train: whether dropout is active.
      dtype: dtype of the computation.
      approximate_gelu: True for the approximation of GELU with tanh.
      kernel_init: initialiser of the kernels.
      bias_init: initialiser of the biases.
    """

    dropout_rate: float
    train: bool
    dtype: DTypeLike
    approximate_gelu: bool = False
    kernel_init: Initializer = normal
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        dense = partial(
            nn.Dense, kernel_init=self.kernel_init, bias_init=self.bias_init, dtype=self.dtype
        )
        y = nn.gelu(dense(4 * channels, name="fc1")(x), approximate=self.approximate_gelu)
        y = Dropout(self.dropout_rate, deterministic=not self.train)(y)
        y = dense(channels, name="fc2")(y)
        return Dropout(self.dropout_rate, deterministic=not self.train)(y)


class LayerScale(nn.Module):
    """Product with a trainable parameter `gamma` for each channel, `[..., C]` to the same shape.

    Touvron et al. 2021 (arXiv:2103.17239), section 2.

    Attributes:
      initial: initial value of `gamma`.
    """

    initial: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(self.initial)
        gamma = self.param("gamma", init, x.shape[-1:], jnp.float32)
        return x * per_channel(gamma.astype(x.dtype), x)


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Computes scaled dot-product attention (eq. 1) for each head.

    The softmax is computed in at least float32.

    Args:
      query: `[..., N, heads, D]`.
      key: `[..., N, heads, D]`.
      value: `[..., N, heads, D]`.
      bias: added to the attention logits. Its shape broadcasts to `[..., heads, N, N]`; queries are
        on the first of the two last axes, keys on the second.

    Returns:
      `[..., N, heads, D]`, with the dtype of `value`.
    """
    precise = dtypes.at_least_float32(query.dtype)
    logits = jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=precise)
    logits *= query.shape[-1] ** -0.5
    if bias is not None:
        logits += jax.lax.expand_dims(bias.astype(precise), range(logits.ndim - bias.ndim))
    weights = nn.softmax(logits).astype(value.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


class Attention(nn.Module):
    """Multi-head self-attention, `[..., N, C]` to the same shape.

    Attributes:
      heads: number of heads; each has `C / heads` channels.
      dropout_rate: rate of the dropout after the output projection.
      train: whether dropout is active.
      dtype: dtype of the computation.
      qkv_init: initialiser of the kernel `[C, 3 C]` of the query, key and value projections.
      proj_init: initialiser of the kernel of the output projection.

    Raises:
      ValueError: `C` is not a multiple of `heads`.
    """

    heads: int
    dropout_rate: float
    train: bool
    dtype: DTypeLike
    qkv_init: Initializer = normal
    proj_init: Initializer = normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.attend(x)

    def attend(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """Returns the attention output for `x`; `bias` is that of `attention`."""
        channels = x.shape[-1]
        if self.heads < 1 or channels % self.heads:
            raise errors.UserError(
                f"model.heads must divide the {channels} channels, got {self.heads}"
            )
        qkv = nn.Dense(3 * channels, kernel_init=self.qkv_init, dtype=self.dtype, name="qkv")(x)
        qkv = shapes.reshape(qkv, *x.shape[:-1], 3, self.heads, channels // self.heads)
        query, key, value = jnp.moveaxis(qkv, -3, 0)
        y = shapes.reshape(attention(query, key, value, bias), *x.shape)
        y = nn.Dense(channels, kernel_init=self.proj_init, dtype=self.dtype, name="proj")(y)
        return Dropout(self.dropout_rate, deterministic=not self.train)(y)


class WindowAttention(Attention):
    """Self-attention within windows of an image, `[B, H, W, C]` to the same shape.

    Along an axis that is no longer than `window`, the image is one window and is not shifted. The
    table of relative position biases always covers a whole window, so the parameters do not
    depend on the size of the image. As in timm, images are padded to a multiple of the window size
    after the shift, with zeros at the bottom and at the right. Attention treats padding like
    other pixels.

    Attributes:
      window: height and width of the windows in pixels.
      shifted: whether the windows are shifted by half their size; the shift is cyclic.
    """

    window: int = 7
    shifted: bool = False

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
        """Returns position biases plus the shift mask, `[1 or windows, heads, N, N]`."""
        shape = (self.heads, (2 * self.window - 1) ** 2)
        table = self.param("relative_position_bias_table", normal, shape, jnp.float32)
        bias = table[None, :, relative_positions(window, self.window)]
        if not any(shift):
            return bias
        return bias + jnp.asarray(shift_mask(size, window, shift), bias.dtype)


def partition(x: jax.Array, window: Pair) -> jax.Array:
    """Splits images `[B, H, W, C]` into windows `[B, windows, pixels per window, C]`."""
    batch, height, width, channels = x.shape
    rows, columns = height // window[0], width // window[1]
    x = shapes.reshape(x, batch, rows, window[0], columns, window[1], channels).swapaxes(2, 3)
    return shapes.reshape(x, batch, rows * columns, window[0] * window[1], channels)


def merge(windows: jax.Array, window: Pair, size: Pair) -> jax.Array:
    """Inverts `partition`: joins windows into images of height and width `size`."""
    rows, columns = size[0] // window[0], size[1] // window[1]
    batch, *_, channels = windows.shape
    x = shapes.reshape(windows, batch, rows, columns, *window, channels).swapaxes(2, 3)
    return shapes.reshape(x, batch, *size, channels)


def relative_positions(window: Pair, largest: int) -> np.ndarray:
    """Returns the index in the bias table for each pair of pixels of a window, `[N, N]`.

    The first axis is the query, the second the key. The table is in row-major order over the
    row difference and the column difference, query minus key. Each runs from `1 - largest` to
    `largest - 1`.

    >>> relative_positions((1, 2), largest=2)
    array([[4, 3],
           [5, 4]])
    """
    rows, columns = (np.arange(size)[:, None] - np.arange(size) + largest - 1 for size in window)
    indices = (2 * largest - 1) * rows[:, None, :, None] + columns[None, :, None, :]
    return indices.reshape(window[0] * window[1], -1)


def shift_mask(size: Pair, window: Pair, shift: Pair) -> np.ndarray:
    """Attention mask that blocks the seam of the cyclic shift, `[windows, 1, N, N]`.

    The shift moves pixels from one border of the image next to those of the opposite border. The
    mask is `MASKED` for two pixels on opposite sides of this seam, and 0 for all other pairs.

    >>> shift_mask((1, 4), (1, 2), (0, 1))[1, 0]
    array([[   0., -100.],
           [-100.,    0.]])
    """
    rows, columns = (  # True for pixels that wrapped around, [windows along the axis, pixels]
        (np.arange(size[i]) >= size[i] - shift[i]).reshape(-1, window[i]) for i in range(2)
    )
    regions = 2 * rows[:, None, :, None] + columns[None, :, None, :]
    regions = regions.reshape(-1, 1, window[0] * window[1])
    return np.where(regions[..., :, None] == regions[..., None, :], 0, MASKED)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block, `[..., C]` to the same shape.

    Layer normalisation and attention with a shortcut, then layer normalisation and an MLP with a
    shortcut.

    Attributes:
      attention: builds the attention module; takes `name`.
      epsilon: constant added to the variance in the normalisations.
      dropout_rate: rate of the dropout in the MLP.
      drop_rate: rate of stochastic depth.
      train: whether dropout and stochastic depth are active.
      dtype: dtype of the computation.
      mlp: builds the MLP; takes the dropout rate, `train`, the dtype and a name.
    """

    attention: layers.ModuleDef
    epsilon: float
    dropout_rate: float
    drop_rate: float
    train: bool
    dtype: DTypeLike
    mlp: layers.ModuleDef = Mlp

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = layers.LayerNorm(self.epsilon, self.dtype, name="norm1")(x)
        y = self.attention(name="attn")(y)
        x = x + stochastic_depth(y, self.drop_rate, train=self.train)
        y = layers.LayerNorm(self.epsilon, self.dtype, name="norm2")(x)
        y = self.mlp(self.dropout_rate, self.train, self.dtype, name="mlp")(y)
        return x + stochastic_depth(y, self.drop_rate, train=self.train)
