"""Primitives that have a lowering of their own for the CPU and `jax.lax`'s elsewhere."""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import AxisType

from cnn_jax import errors

Function = Callable[..., jax.Array]

# Of what the primitives may be given; `jax.lax` has more.
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)

# What an operation may be made into on a CPU; where a way has nothing for it, the next has.
WAYS = ("native", "xla", "plain")
_way = contextvars.ContextVar("way", default="native")


@contextlib.contextmanager
def lowering(way: str) -> Iterator[None]:
    """What is lowered within is made into one of these on a CPU, to compare or to test them.

    - 'native': kernels of our own; what happens without this, too;
    - 'xla': XLA's operations, put together for speed;
    - 'plain': what `jax.lax` makes of it.

    That is when a function is compiled, not when it is called, and not where JAX has it compiled
    already:

    >>> f = jax.jit(lambda x: x + 1)
    >>> with lowering("plain"):
    ...     compiled = f.lower(jnp.ones(3)).compile()

    Raises:
      ValueError: another way.
    """
    if way not in WAYS:
        raise errors.unknown("way", way, WAYS)
    token = _way.set(way)
    try:
        yield
    finally:
        _way.reset(token)


def is_automatic(x: jax.Array) -> bool:
    """Whether XLA decides how `x` is sharded, and not its type or a `shard_map`.

    The others need rules of their own, which `jax.lax` has and these primitives have not.
    """
    return all(kind == AxisType.Auto for kind in jax.typeof(x).sharding.mesh.axis_types)


@dataclasses.dataclass(frozen=True)
class Native:
    """A kernel of our own.

    Attributes:
      covers: whether it takes these operands.
      function: the result.
    """

    covers: Callable[..., bool]
    function: Function


def define(
    name: str,
    reference: Function,
    cpu: Function,
    native: Native | None = None,
    images: Sequence[bool] = (),
) -> Primitive:
    """A primitive without derivatives; these are for the caller to add.

    Args:
      name: shown in jaxprs.
      reference: what it is, in terms of `jax.lax`: its result, and its lowering off the CPU.
      cpu: the same result, faster on a CPU, out of XLA's operations.
      native: the same by a kernel of our own, for one device and for this machine alone.
      images: which operands have one entry for each image, if the result has; `vmap` over just
        these then makes more images of them, and is otherwise `jax.lax`'s.
    """
    primitive = Primitive(name)

    @functools.lru_cache(maxsize=256)
    def compiled(**static: Any) -> Function:
        return jax.jit(functools.partial(primitive.bind, **static))

    def abstract(*operands: ShapedArray, **static: Any) -> ShapedArray:
        result = jax.eval_shape(functools.partial(reference, **static), *operands)
        weak_type = all(operand.weak_type for operand in operands)
        return ShapedArray(result.shape, result.dtype, weak_type=weak_type)

    def implementation(*operands: jax.Array, **static: Any) -> jax.Array:
        if jax.config.values["jax_disable_jit"]:
            return reference(*operands, **static)
        return compiled(**static)(*operands)

    def batched(
        operands: Sequence[jax.Array], axes: Sequence[int | None], **static: Any
    ) -> tuple[jax.Array, int]:
        if [axis is not None for axis in axes] != list(images):
            return jax.vmap(functools.partial(reference, **static), tuple(axes))(*operands), 0
        front = [
            x if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ]
        merged = [
            lax.collapse(x, 0, 2) if is_image else x
            for x, is_image in zip(front, images, strict=True)
        ]
        result = primitive.bind(*merged, **static)
        return result.reshape(*front[0].shape[:2], *result.shape[1:]), 0

    primitive.def_impl(implementation)
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(reference, multiple_results=False))
    mlir.register_lowering(primitive, _cpu_rule(reference, cpu, native), "cpu")
    return primitive


def _cpu_rule(reference: Function, cpu: Function, native: Native | None) -> Callable[..., Any]:
    """The lowering on a CPU, by the way that `lowering` says."""

    def rule(context: mlir.LoweringRuleContext, *operands: Any, **static: Any) -> Any:
        way = _way.get()

        def function(*operands: jax.Array) -> jax.Array:
            if way == "plain":
                return reference(*operands, **static)
            if native is None or way == "xla" or _is_portable(context):
                return cpu(*operands, **static)
            best = native.function if native.covers(*operands, **static) else cpu
            return best(*operands, **static)

        return mlir.lower_fun(function, multiple_results=False)(context, *operands)

    return rule


def _is_portable(context: mlir.LoweringRuleContext) -> bool:
    """Whether what is lowered may run elsewhere, or in parts that XLA makes of it."""
    module = context.module_context
    devices = getattr(module.axis_context, "num_devices", None)
    return bool(module.lowering_parameters.for_export) or devices != 1
