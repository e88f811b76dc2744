"""Layers and helpers of all families: convolution, normalisation, initialisers, heads."""

import math
from collections.abc import Callable, Mapping, Sequence
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
from cnn_jax.ops import dtypes
from cnn_jax.ops.channels import per_channel

Activation = Callable[[jax.Array], jax.Array]
ModuleDef = Callable[..., nn.Module]


class Variant(NamedTuple):
    """Registry entry: how to build a network, and its published input shape.

    Attributes:
      build: returns the module; takes `num_classes`, `dtype` and the fields of the network.
      input_shape: height, width and channels of the images in the source of the network.
    """

    build: ModuleDef
    input_shape: tuple[int, int, int]


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {"relu": nn.relu, "sigmoid": nn.sigmoid, "tanh": jnp.tanh}
)

PADDINGS = ("HALF", "SAME")  # of a whole network; see `ops.Padding`

# Variance 2 / fan_in keeps the scale of the signal through ReLUs: He et al. 2015
# (arXiv:1502.01852), eq. 10.
he_normal: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Variance 2 / fan_out keeps the scale of the gradients: section 2.2 of the same paper. torchvision
# and timm use it.
he_normal_fan_out: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Variance 2 / (fan_in + fan_out), for symmetric activation functions such as tanh: Glorot & Bengio
# 2010, eq. 16.
glorot_uniform: Initializer = nn.initializers.glorot_uniform()


def activation(name: str) -> Activation:
    """Returns the activation function called `name`.

    Raises:
      ValueError: `name` is not a key of `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise errors.unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class Conv(nn.Module):
    """Two-dimensional convolution, `[B, H, W, C_in]` to `[B, H', W', features]`.

    Numeric padding is symmetric and in pixels, as in the papers and in torch: one number for both
    axes, or one for each axis. 'HALF' pads each side by half the kernel size, rounded down. 'SAME'
    is TensorFlow's padding, for networks whose original code used it.

    Parameters: `kernel` `[kh, kw, C_in / groups, features]` and `bias` `[features]`.

    Raises:
      ValueError: the name of the padding is unknown.
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
        return y if bias is None else y + per_channel(bias, y)


class BatchNorm(nn.Module):
    """Batch normalisation, `[..., C]` to the same shape.

    Training normalises a batch by its own mean and variance and updates the running statistics.
    Evaluation normalises by the running statistics. Source: Ioffe & Szegedy 2015
    (arXiv:1502.03167), algorithms 1 and 2.

    Parameters: `scale` `[C]` and `bias` `[C]`. Running statistics, in the collection
    `batch_stats`: `mean` `[C]` and `var` `[C]`. The running variance is the biased one, as the
    variance of a batch in algorithm 1.

    Attributes:
      use_running_average: True in evaluation: normalise by the running statistics.
      momentum: share of the old running statistics in an update; 1 minus torch's `momentum`.
      epsilon: constant added to the variance.
      dtype: dtype of the result; moments and scales are computed in at least float32.
      scale_init: initialiser of `scale`. With zeros, a residual block starts as its shortcut.

    Raises:
      UserError: in training, a channel has fewer than two values, counted over all devices of an
        Auto or Explicit mesh. One value normalises to `bias` whatever it is, so that nothing before
        the layer is trained. An empty batch has no mean. `init` and evaluation take both.
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
        x, wide = x.astype(self.dtype), dtypes.at_least_float32(self.dtype)
        scale, bias = scale.astype(wide), bias.astype(wide)
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(running_var.value.astype(wide) + self.epsilon)
            return ops.scale_and_shift(x, factor, bias, running_mean.value.astype(wide))
        if not self.is_initializing():
            _check_values(x, "/".join(self.path))
        y, mean, var = ops.batch_normalize(ops.materialize(x), scale, bias, self.epsilon)
        if self.is_initializing():
            return y
        for running, value in ((running_mean, mean), (running_var, var)):
            old, new = running.value, value.astype(running.value.dtype)
            running.value = self.momentum * old + (1 - self.momentum) * new
        return y


def _check_values(x: jax.Array, layer: str) -> None:
    """Checks that each channel of `x` `[..., C]` has at least two values, as in torch."""
    if math.prod(x.shape[:-1]) < 2:
        raise errors.UserError(
            "batch normalisation in training needs at least two values per channel, got an input "
            f"of shape {list(x.shape)} for the layer {layer or 'BatchNorm'}; use a larger batch or "
            "larger images, or apply the network with train=False"
        )


def batch_norm(
    *, train: bool, dtype: DTypeLike, epsilon: float = 1e-5, momentum: float = 0.9
) -> ModuleDef:
    """Returns the class `BatchNorm` with these settings; blocks call it with a name."""
    return partial(
        BatchNorm,
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
    )


class LayerNorm(nn.Module):
    """Layer normalisation over the channels, `[..., C]` to the same shape.

    Ba, Kiros & Hinton 2016 (arXiv:1607.06450), eqs. 2 and 4. The variance is the mean of the
    squared distances from the mean. Flax's default, the mean of the squares minus the squared mean,
    cancels where the mean is large. Here the relative error of the variance is a few units in the
    last place. If the mean is `k` standard deviations, rounding the mean adds an absolute error of
    about `k` machine epsilons to each result.

    Parameters: `scale` `[C]` and `bias` `[C]`.

    Attributes:
      epsilon: constant added to the variance.
      dtype: dtype of the result, which is computed in at least float32.
    """

    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        wide = x.astype(dtypes.at_least_float32(self.dtype))
        scale, bias = (per_channel(one, x).astype(wide.dtype) for one in (scale, bias))
        deviations = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(deviations).mean(-1, keepdims=True)
        y = deviations * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, followed by a normalisation and an activation function.

    Maps `[B, H, W, C_in]` to `[B, H', W', features]`. Child modules: `conv` and `bn`, which `norm`
    builds.
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
    """Squeeze-and-excitation block, `[B, H, W, C]` to the same shape.

    Multiplies each channel by a gate, which two layers compute from the mean over all pixels. Hu et
    al. 2017 (arXiv:1709.01507), eqs. 2 to 4. Child modules: `reduce` and `expand`.

    Attributes:
      reduced: number of channels between the two layers.
      activation: activation function of the first layer.
      gate: activation function of the second layer, with values in [0, 1].
      dtype: dtype of the computation.
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


def remat(block: Any, enabled: bool) -> Any:
    """Returns `block`, or if `enabled` a version that is rematerialised.

    The backward pass recomputes the activations of a rematerialised block from its input. Random
    numbers, gradients and the names of all variables stay equal. A field of a module must not be a
    mapping whose order matters, because Flax sorts it.

    Args:
      block: a class of modules whose `__call__` takes one array, or a function
        `(module, x) -> array` that builds child modules of `module`.
      enabled: the network's field `remat`.
    """
    return nn.remat(block) if enabled else block


def check_padding(padding: str) -> None:
    """Checks the field `padding` of a network: convolutions without padding would not fit together.

    Raises:
      UserError: `padding` is neither 'HALF' nor 'SAME'.
    """
    if padding not in PADDINGS:
        raise errors.unknown("model.padding", padding, PADDINGS)


def check_stages(**fields: Sequence[Any]) -> None:
    """Checks that fields of a network have a positive integer for each stage.

    Raises:
      UserError: the lengths differ, there is no stage, or an entry is not a positive integer.

    >>> check_stages(stage_sizes=(2, 2), widths=(64, 128))
    """
    for name, values in fields.items():
        if not values or not all(isinstance(value, int) and value > 0 for value in values):
            raise errors.UserError(
                f"model.{name} must hold positive integers, one for each stage, got {values!r}"
            )
    if len({len(values) for values in fields.values()}) > 1:
        given = ", ".join(f"model.{name}={values!r}" for name, values in fields.items())
        raise errors.UserError(
            f"{given}: the lengths {', '.join(str(len(values)) for values in fields.values())} "
            "differ; give one entry for each stage in all of them"
        )


def divisible(channels: float, least_share: float = 0.9) -> int:
    """Rounds a number of channels to the nearest multiple of 8, at least 8.

    A multiple below `least_share` of `channels` is replaced by the next larger one. The authors'
    code of MobileNet and EfficientNet rounds scaled widths by this rule.

    >>> divisible(0.75 * 24), divisible(44), divisible(11)
    (24, 48, 16)
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= least_share * channels else nearest + 8


def feature(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Records `x` as the endpoint `name` for `models.features` and returns `x`."""
    requested = module.is_mutable_collection("features")
    if requested and not module.is_initializing():  # `init` must not return endpoints as variables.
        module.put_variable("features", name, x)  # `sow` refuses the name of a child module.
    return x


def wants_auxiliary(module: nn.Module, heads: bool, train: bool) -> bool:
    """Returns True if the auxiliary heads must be computed.

    Training uses their logits, and `init` creates their parameters.
    """
    return heads and (train or module.is_initializing())


def sow_auxiliary(module: nn.Module, name: str, logits: jax.Array) -> None:
    """Stores the logits of auxiliary head `name` in `aux_logits`, for the training loss."""
    if not module.is_initializing():  # `init` must not return logits as variables.
        module.sow(
            "aux_logits",
            f"{name}_logits",
            as_logits(logits),
            reduce_fn=_replace,
            init_fn=_no_logits,
        )


def _no_logits() -> None:
    return None


def _replace(_: Any, logits: jax.Array) -> jax.Array:
    return logits


def check_image_size(images: jax.Array, minimum: int, model: str) -> None:
    """Raises a ValueError if images `[B, H, W, C]` have a side of less than `minimum` pixels.

    `model` is the name that the message gives.
    """
    height, width = images.shape[1:3]
    if min(height, width) < minimum:
        raise errors.UserError(
            f"{model} needs images of at least {minimum}x{minimum} pixels, got {height}x{width}"
        )


def logits(x: jax.Array, num_classes: int, head: ModuleDef) -> jax.Array:
    """Returns the logits `[B, num_classes]` for pooled features `[B, D]`, in at least float32.

    Args:
      x: the pooled features. They are the result if `num_classes` is 0; the network then has no
        head.
      num_classes: the number of logits.
      head: builds the last layer; takes its number of units.
    """
    return as_logits(head(num_classes)(x) if num_classes else x)


def as_logits(x: jax.Array) -> jax.Array:
    """Converts logits or features to at least float32: a softmax in 16 bits loses precision."""
    return dtypes.widen(x)
