"""Convolution with the signature and results of `jax.lax.conv_general_dilated`, fast on a CPU.

A convolution `y = C(x, w)` is bilinear, so `<C(x, w), dy>` is linear in each of `x`, `w` and `dy`.
Its partial derivatives are three bilinear maps: the output, the input gradient and the kernel
gradient. The two transposes of each map are the other two maps. Each map is a primitive with its
own lowering on a CPU; on other platforms it lowers to `jax.lax`. Forward-mode and reverse-mode
derivatives of any order use only these three primitives.
"""

import functools
from collections.abc import Sequence
from typing import Any, cast

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.ops import primitive, rules
from cnn_jax.ops.cpu import conv as cpu
from cnn_jax.ops.native import conv as native
from cnn_jax.ops.window import Axis, Window
from cnn_jax.runtime.jax_internals import ad

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: NamedSharding | PartitionSpec | None = None,
) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated`, several times faster on a CPU for images.

    Arguments, result, dtypes and errors are those of `jax.lax.conv_general_dilated`. The faster
    lowering supports real floating-point images `[B, H, W, C]` and kernels `[kh, kw, C/g, O]`
    (`"NHWC"`, `"HWIO"`, `"NHWC"`). It supports any strides, kernel dilation, groups and
    non-negative padding, under `jit` with automatic sharding. All other arguments are passed to
    `jax.lax`. 16-bit inputs are summed in float32.

    Use it in Flax as `nn.Conv(..., conv_general_dilated=cnn_jax.ops.conv_general_dilated)`, and
    with `nnx.Conv` alike.

    Raises:
      UserError: the images have no batch axis. Other errors are those of `jax.lax`.

    >>> import jax.numpy as jnp
    >>> images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 16))
    >>> conv_general_dilated(
    ...     images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ... ).shape
    (2, 4, 4, 16)
    """
    options: dict[str, Any] = {
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": dimension_numbers,
        "feature_group_count": feature_group_count,
        "batch_group_count": batch_group_count,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
        "out_sharding": out_sharding,
    }
    if lhs.ndim == 3 and rhs.ndim == 4:
        raise errors.UserError(
            f"images of shape {lhs.shape} have no batch axis, and a kernel of shape {rhs.shape}"
            " needs one; add it with images[None], and take result[0]"
        )
    result = jax.eval_shape(  # Raises the errors of jax.lax.
        functools.partial(
            lax.conv_general_dilated, window_strides=window_strides, padding=padding, **options
        ),
        lhs,
        rhs,
    )
    window = _window(lhs, rhs, window_strides, padding, options)
    if window is None or result.size == 0:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    if not all(map(primitive.is_auto_sharded, (lhs, rhs))):
        return _on_each_device(functools.partial(_reference_output, window=window), lhs, rhs)
    return _output.bind(lhs, rhs, window=window)


def _on_each_device(
    convolve: primitive.Function, images: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Returns `convolve(images, kernel)` where the sharding is not chosen by XLA.

    XLA multiplies the kernel gradient of a grouped convolution by the number of devices that have
    the same images (seen in JAX 0.10.2 and 0.12). So on an Explicit mesh that splits the images
    over the batch only, each device convolves its own part.
    """
    sharding, of_kernel = jax.typeof(images).sharding, jax.typeof(kernel).sharding
    batch, *others = sharding.spec
    is_explicit = all(kind == AxisType.Explicit for kind in sharding.mesh.axis_types)
    if not is_explicit or any(others) or any(of_kernel.spec) or sharding.mesh != of_kernel.mesh:
        return cast("jax.Array", convolve(images, kernel))
    specs = PartitionSpec(batch), PartitionSpec()
    return jax.shard_map(convolve, mesh=sharding.mesh, in_specs=specs, out_specs=specs[0])(
        images, kernel
    )


def _window(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    options: dict[str, Any],
) -> Window | None:
    """Returns the geometry, or None if the primitives do not support the arguments."""
    if (
        lhs.ndim != 4
        or lhs.dtype != rhs.dtype
        or lhs.dtype not in primitive.DTYPES
        or lhs.size * rhs.size == 0
    ):
        return None
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, options["dimension_numbers"])
    if (
        layout != lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)
        or options["batch_group_count"] != 1
        or options["out_sharding"] is not None
        or options["preferred_element_type"] not in (None, lhs.dtype)
        or tuple(options["lhs_dilation"] or (1, 1)) != (1, 1)
    ):
        return None
    dilations = tuple(options["rhs_dilation"] or (1, 1))
    if isinstance(padding, str):
        reach = [d * (k - 1) + 1 for k, d in zip(rhs.shape[:2], dilations, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:3], reach, strides, padding)
    if any(amount < 0 for pair in padding for amount in pair):
        return None
    axes = zip(lhs.shape[1:3], rhs.shape[:2], strides, dilations, padding, strict=True)
    rows, columns = (
        Axis(size, kernel, stride, dilation, low, high)
        for size, kernel, stride, dilation, (low, high) in axes
    )
    precision = options["precision"]
    if precision is None:  # Read now: derivatives may be traced outside of this context.
        precision = jax.config.values["jax_default_matmul_precision"]
    elif isinstance(precision, list):
        precision = tuple(precision)
    return Window(rows, columns, options["feature_group_count"], precision)


def _reference_output(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    rows, columns = window.rows, window.columns
    return lax.conv_general_dilated(
        x,
        kernel,
        (rows.stride, columns.stride),
        ((rows.low, rows.high), (columns.low, columns.high)),
        rhs_dilation=(rows.dilation, columns.dilation),
        dimension_numbers=_LAYOUT,
        feature_group_count=window.groups,
        precision=window.precision,
    )


def _reference_input_gradient(dy: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    shape = (dy.shape[0], window.rows.size, window.columns.size, kernel.shape[2] * window.groups)
    x = jax.ShapeDtypeStruct(shape, dy.dtype)
    (dx,) = jax.linear_transpose(lambda x: _reference_output(x, kernel, window=window), x)(dy)
    return dx


def _reference_kernel_gradient(x: jax.Array, dy: jax.Array, *, window: Window) -> jax.Array:
    size = window.rows.kernel, window.columns.kernel
    shape = (*size, x.shape[-1] // window.groups, dy.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    (gradient,) = jax.linear_transpose(
        lambda kernel: _reference_output(x, kernel, window=window), kernel
    )(dy)
    return gradient


_output = primitive.define(
    "conv",
    _reference_output,
    cpu.output,
    primitive.Native(native.supports, native.output),
    has_batch=(True, False),
)
_input_gradient = primitive.define(
    "conv_input_gradient",
    _reference_input_gradient,
    cpu.input_gradient,
    primitive.Native(native.supports, native.input_gradient),
    has_batch=(True, False),
)
_kernel_gradient = primitive.define(
    "conv_kernel_gradient",
    _reference_kernel_gradient,
    cpu.kernel_gradient,
    primitive.Native(native.supports, native.kernel_gradient),
)

for _primitive in (_output, _input_gradient, _kernel_gradient):
    rules.define_bilinear_series(_primitive)
# The arguments of each transpose rule are the cotangent and the two operands. The first rule
# transposes with respect to the first operand, the second one with respect to the second.
ad.defbilinear(
    _output,
    lambda dy, _, kernel, window: _input_gradient.bind(dy, kernel, window=window),
    lambda dy, x, _, window: _kernel_gradient.bind(x, dy, window=window),
)
ad.defbilinear(
    _input_gradient,
    lambda dx, _, kernel, window: _output.bind(dx, kernel, window=window),
    lambda dx, dy, _, window: _kernel_gradient.bind(dx, dy, window=window),
)
ad.defbilinear(
    _kernel_gradient,
    lambda dkernel, _, dy, window: _input_gradient.bind(dy, dkernel, window=window),
    lambda dkernel, x, _, window: _output.bind(x, dkernel, window=window),
)
