"""JAX primitives with their own lowering on a CPU and that of `jax.lax` on other platforms."""

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

# Dtypes that the primitives support. Callers pass arrays of other dtypes to `jax.lax`.
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)

# Lowerings for a CPU; see the context manager `lowering`.
LOWERINGS = ("native", "xla", "plain")
_lowering = contextvars.ContextVar("lowering", default="native")


@contextlib.contextmanager
def lowering(name: str) -> Iterator[None]:
    """Selects the CPU lowering of operations that are compiled inside the context.

    - 'native': C++ kernels, or 'xla' where no kernel applies. This is the default.
    - 'xla': combinations of XLA operations that are fast on a CPU.
    - 'plain': the lowering of `jax.lax`.

    Use it to compare or to test the lowerings. It takes effect when a function is compiled, not
    when it is called. It does not change functions that JAX has already compiled.

    >>> f = jax.jit(lambda x: x + 1)
    >>> with lowering("plain"):
    ...     compiled = f.lower(jnp.ones(3)).compile()

    Args:
      name: 'native', 'xla' or 'plain'.

    Raises:
      ValueError: `name` is not one of the three.
    """
    if name not in LOWERINGS:
        raise errors.unknown("lowering", name, LOWERINGS)
    token = _lowering.set(name)
    try:
        yield
    finally:
        _lowering.reset(token)


def is_auto_sharded(x: jax.Array) -> bool:
    """Returns True if XLA chooses the sharding of `x`: all axes of its mesh are of type `Auto`.

    Explicit sharding and `shard_map` need sharding rules for each primitive. `jax.lax` has such
    rules; the primitives defined here do not.
    """
    return all(kind == AxisType.Auto for kind in jax.typeof(x).sharding.mesh.axis_types)


@dataclasses.dataclass(frozen=True)
class Native:
    """Native kernel of a primitive.

    Attributes:
      supports: returns True if the kernel supports the operands.
      function: computes the result.
    """

    supports: Callable[..., bool]
    function: Function


def define(
    name: str,
    reference: Function,
    cpu: Function,
    native: Native | None = None,
    has_batch: Sequence[bool] = (),
) -> Primitive:
    """Defines a primitive without differentiation rules, which the caller adds.

    Args:
      name: name of the primitive in jaxprs.
      reference: implementation in terms of `jax.lax`. It defines the shape and dtype of the result,
        and it is the lowering on platforms other than the CPU.
      cpu: implementation in XLA operations that are fast on a CPU.
      native: kernel for programs that run on one device of this machine.
      has_batch: for each operand, True if its leading axis is the batch axis; the result must have
        a leading batch axis too. If `vmap` maps exactly these operands, the batching rule merges
        the mapped axis into the batch axis. Otherwise the rule applies `vmap` to `reference`. An
        empty sequence always selects the second rule.
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
        if [axis is not None for axis in axes] != list(has_batch):
            return jax.vmap(functools.partial(reference, **static), tuple(axes))(*operands), 0
        front = [
            x if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ]
        merged = [
            lax.collapse(x, 0, 2) if has_axis else x
            for x, has_axis in zip(front, has_batch, strict=True)
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
    """Returns the lowering rule for a CPU. The context manager `lowering` selects its result."""

    def rule(context: mlir.LoweringRuleContext, *operands: Any, **static: Any) -> Any:
        selected = _lowering.get()

        def function(*operands: jax.Array) -> jax.Array:
            if selected == "plain":
                return reference(*operands, **static)
            if native is None or selected == "xla" or _is_portable(context):
                return cpu(*operands, **static)
            best = native.function if native.supports(*operands, **static) else cpu
            return best(*operands, **static)

        return mlir.lower_fun(function, multiple_results=False)(context, *operands)

    return rule


def _is_portable(context: mlir.LoweringRuleContext) -> bool:
    """Returns True if the program is exported, or compiled for several devices.

    An exported program may run on another machine. XLA partitions a program for several devices.
    Native kernels support neither.
    """
    module = context.module_context
    devices = getattr(module.axis_context, "num_devices", None)
    return bool(module.lowering_parameters.for_export) or devices != 1
