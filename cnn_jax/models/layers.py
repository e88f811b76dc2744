"""What the families share: convolution, normalisation, activations, initialisers, heads."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors, ops

Activation = Callable[[jax.Array], jax.Array]
ModuleDef = Callable[..., nn.Module]


class Variant(NamedTuple):
    """What a family registers under a name.

    Attributes:
      build: takes `num_classes`, `dtype` and the network's own fields.
      input_shape: height, width and channels of the images that the source used.
    """

    build: ModuleDef
    input_shape: tuple[int, int, int]


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {"relu": nn.relu, "sigmoid": nn.sigmoid, "tanh": jnp.tanh}
)

# He et al. 2015 (arXiv:1502.01852), eq. 10: variance 2 / fan_in keeps the scale through ReLUs.
he_normal: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# The same, section 2.2 of the paper, for the scale of gradients; torchvision's and timm's choice.
he_normal_fan_out: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Glorot & Bengio 2010, eq. 16: variance 2 / (fan_in + fan_out), for symmetric squashing functions.
glorot_uniform: Initializer = nn.initializers.glorot_uniform()


def activation(name: str) -> Activation:
    """The activation function of that name.

    Raises:
      ValueError: `name` is not a key of `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise errors.unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class Conv(nn.Module):
    """Two-dimensional convolution, `[B, H, W, C_in]` to `[B, H', W', features]`.

    Padding is symmetric, in pixels, one number for both axes or one for each, as the papers and
    torch state it; 'HALF' is half the kernel, and 'SAME' is for networks whose original code had
    TensorFlow's. Parameters: `kernel` `[kh, kw, C_in / groups, features]` and `bias` `[features]`.

    Raises:
      ValueError: a padding of another name.
    """

    features: int
    kernel_size: tuple[int, int]
    stride: int = 1
    padding: ops.Padding = 0
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = he_normal
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        strides = (self.stride, self.stride)
        y = ops.conv_general_dilated(
            x,
            kernel,
            window_strides=strides,
            padding=ops.paddings(self.padding, x.shape[1:3], self.kernel_size, strides),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y if bias is None else y + bias


class BatchNorm(nn.Module):
    """Batch normalisation, `[..., C]` to the same.

    Parameters `scale` and `bias` `[C]`, and, in the collection `batch_stats`, the running `mean`
    and `var` `[C]`; the running variance is the biased one, as in the paper's eq. for a batch. In
    training a batch's own moments normalise it. Source: Ioffe & Szegedy 2015 (arXiv:1502.03167),
    algorithms 1 and 2.

    Attributes:
      use_running_average: whether the running statistics normalise, as in evaluation.
      momentum: the share of the running statistics that stays (torch's is the share that goes).
      epsilon: added to the variance.
      dtype: of the result; sums and factors are in float32 at least.
      scale_init: zeros make a residual block start as its shortcut.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    scale_init: Initializer = nn.initializers.ones_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        x = x.astype(self.dtype)
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            return ops.scale_and_shift(x, factor, bias - running_mean.value * factor)
        y, mean, var = ops.batch_normalize(ops.materialize(x), scale, bias, self.epsilon)
        if not self.is_initializing():
            for running, value in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * value
        return y


def batch_norm(
    *, train: bool, dtype: DTypeLike, epsilon: float = 1e-5, momentum: float = 0.9
) -> ModuleDef:
    """Batch normalisation that knows whether it trains, for blocks to call with a name."""
    return partial(
        BatchNorm,
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
    )


class ConvNorm(nn.Module):
    """A convolution without bias, its normalisation and an activation function.

    `[B, H, W, C_in]` to `[B, H', W', features]`; children `conv` and `bn`.
    """

    features: int
    kernel_size: tuple[int, int]
    norm: ModuleDef
    stride: int = 1
    padding: ops.Padding = 0
    groups: int = 1
    activation: Activation = nn.relu
    kernel_init: Initializer = he_normal
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.padding,
            self.groups,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )
        return self.activation(self.norm(name="bn")(conv(x)))


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole image holds, `[B, H, W, C]` to the same.

    Hu et al. 2017 (arXiv:1709.01507), eqs. 2 to 4; children `reduce` and `expand`.

    Attributes:
      reduced: channels between the two layers.
      activation: after the first layer.
      gate: after the second, to [0, 1].
      dtype: what is computed in.
    """

    reduced: int
    activation: Activation = nn.relu
    gate: Activation = nn.sigmoid
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(Conv, kernel_size=(1, 1), kernel_init=he_normal_fan_out, dtype=self.dtype)
        y = ops.global_avg_pool(x)[:, None, None]  # [B, 1, 1, C]
        y = self.activation(conv(self.reduced, name="reduce")(y))
        return x * self.gate(conv(x.shape[-1], name="expand")(y))


def stochastic_depth(residual: jax.Array, rate: float, *, train: bool) -> jax.Array:
    """In training, zero for a share `rate` of the examples, the others scaled up to compensate.

    `[B, ...]` to the same; draws from the rng 'dropout' of the module that calls this. Huang et al.
    2016 (arXiv:1603.09382), section 3, who scale in evaluation instead.
    """
    others = tuple(range(1, residual.ndim))
    return nn.Dropout(rate, broadcast_dims=others, deterministic=not train)(residual)


def linear_rates(last: float, count: int) -> list[float]:
    """Rates of stochastic depth that rise from 0 to `last` over `count` blocks (its eq. 4)."""
    return [last * index / max(count - 1, 1) for index in range(count)]


def divisible(channels: float, divisor: int = 8, least_share: float = 0.9) -> int:
    """The multiple of `divisor` nearest to `channels`, the next one if that is much less.

    What MobileNet's and EfficientNet's authors do to widths that they scale.

    >>> divisible(0.75 * 24), divisible(44), divisible(11)
    (24, 48, 16)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= least_share * channels else nearest + divisor


def feature(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Offer what a stage computes, `x`, to who asks for `models.features`, and return it."""
    wanted = module.is_mutable_collection("features")
    if wanted and not module.is_initializing():  # They are no variables to start from.
        module.put_variable("features", name, x)  # Unlike `sow`, also by the name of a child.
    return x


def wants_auxiliary(module: nn.Module, heads: bool, train: bool) -> bool:
    """Whether to compute auxiliary heads: they serve training alone, but `init` needs them too."""
    return heads and (train or module.is_initializing())


def sow_auxiliary(module: nn.Module, name: str, logits: jax.Array) -> None:
    """Hand the logits of the auxiliary head `name` to the training loss, in `aux_logits`."""
    if not module.is_initializing():  # They are no variables to start from.
        module.sow(
            "aux_logits", f"{name}_logits", as_logits(logits), reduce_fn=_last, init_fn=_nothing
        )


def _nothing() -> None:
    return None


def _last(_: Any, logits: jax.Array) -> jax.Array:
    return logits


def check_image_size(images: jax.Array, minimum: int, model: str) -> None:
    """Raise a ValueError if `images` `[B, H, W, C]` are too small for the poolings of `model`."""
    height, width = images.shape[1:3]
    if min(height, width) < minimum:
        raise errors.UserError(
            f"{model} needs images of at least {minimum}x{minimum} pixels, got {height}x{width}"
        )


def flatten(x: jax.Array) -> jax.Array:
    """`[B, ...]` to `[B, N]`, channels fastest."""
    return x.reshape(x.shape[0], -1)


def as_logits(x: jax.Array) -> jax.Array:
    """Float32, or float64 where the network computes in that: softmax in less loses digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
