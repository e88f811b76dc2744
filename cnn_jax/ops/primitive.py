"""JAX primitives with their own lowering on a CPU and that of `jax.lax` on other platforms."""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from cnn_jax import errors
from cnn_jax.ops import rules
from cnn_jax.runtime.jax_internals import Primitive, ShapedArray, mlir

Function = Callable[..., Any]  # Returns an array, or a tuple of arrays for several results.

# Dtypes that the primitives support. Callers pass arrays of other dtypes to `jax.lax`.
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)

# Lowerings for a CPU; see the context manager `lowering`.
LOWERINGS = ("native", "xla", "plain")
_lowering = contextvars.ContextVar("lowering", default="native")
_references: dict[Primitive, Function] = {}  # Reference implementations; see `reference`.


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


def selected() -> str:
    """Returns the lowering that is selected here, one of `LOWERINGS`."""
    return _lowering.get()


def reference(primitive: Primitive) -> Function | None:
    """Returns the implementation in terms of `jax.lax` of a primitive; None if it is JAX's own."""
    return _references.get(primitive)


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


@dataclasses.dataclass(frozen=True)
class _Implementations:
    """Implementations of a primitive.

    Attributes:
      reference: implementation in terms of `jax.lax`.
      cpu: implementation in XLA operations that are fast on one CPU of this machine.
      portable: CPU implementation that can be exported and split over several devices.
      native: kernel for programs that run on one device of this machine.
    """

    reference: Function
    cpu: Function
    portable: Function
    native: Native | None


def define(
    name: str,
    reference: Function,
    cpu: Function,
    native: Native | None = None,
    has_batch: Sequence[bool] = (),
    *,
    multiple_results: bool = False,
) -> Primitive:
    """Defines a primitive without differentiation rules, which the caller adds.

    The Taylor rule for `jax.experimental.jet` is that of `reference`, unless the caller replaces
    it.

    Args:
      name: name of the primitive in jaxprs.
      reference: implementation in terms of `jax.lax`. It defines the shape and dtype of the result,
        and it is the lowering on platforms other than the CPU.
      cpu: implementation in XLA operations that are fast on a CPU.
      native: kernel for programs that run on one device of this machine.
      has_batch: for each operand, True if its leading axis is the batch axis; the result must have
        a leading batch axis too. If `vmap` maps exactly these operands, the batching rule merges
        the mapped axis into the batch axis. Otherwise the rule uses the mapped version of the
        primitive, see `rules`. An empty sequence always selects the mapped version.
      multiple_results: True if the implementations return a tuple of arrays.
    """
    primitive, mapped = Primitive(name), Primitive(f"{name}_mapped")
    primitive.multiple_results = mapped.multiple_results = multiple_results
    _register(primitive, _Implementations(reference, cpu, cpu, native))
    _register(mapped, _mapped_implementations(reference, cpu, native))
    rules.define_batching(primitive, mapped, has_batch)
    rules.define_mapped(primitive, mapped)
    rules.define_series(primitive, reference)
    return primitive


def _register(primitive: Primitive, implementations: _Implementations) -> None:
    """Defines the evaluation, the abstract evaluation and the lowerings of `primitive`."""
    reference = implementations.reference
    _references[primitive] = reference

    @functools.lru_cache(maxsize=256)
    def compiled(**static: Any) -> Function:
        return jax.jit(functools.partial(primitive.bind, **static))

    def abstract(*operands: ShapedArray, **static: Any) -> Any:
        result = jax.eval_shape(functools.partial(reference, **static), *operands)
        weak_type = all(operand.weak_type for operand in operands)
        return jax.tree.map(lambda y: ShapedArray(y.shape, y.dtype, weak_type=weak_type), result)

    def implementation(*operands: jax.Array, **static: Any) -> Any:
        if jax.config.values["jax_disable_jit"]:
            return reference(*operands, **static)
        return compiled(**static)(*operands)

    primitive.def_impl(implementation)
    primitive.def_abstract_eval(abstract)
    several = primitive.multiple_results
    mlir.register_lowering(primitive, mlir.lower_fun(reference, several))
    mlir.register_lowering(primitive, _cpu_rule(implementations, several), "cpu")


def _mapped_implementations(
    reference: Function, cpu: Function, native: Native | None
) -> _Implementations:
    """Returns the functions that compute the `vmap` of a primitive, for a CPU and for the rest.

    The `vmap` of a convolution over kernels is a grouped convolution, for which XLA has no fast
    CPU implementation. One call for each part of the mapped axis is several times faster. On
    several devices, XLA can only partition the `vmap`.
    """

    def vmap(function: Function) -> Function:
        return lambda *operands, axes, **static: jax.vmap(
            functools.partial(function, **static), axes
        )(*operands)

    if native is None:
        return _Implementations(vmap(reference), vmap(cpu), vmap(cpu), None)
    supports = native.supports

    def supports_parts(*operands: jax.Array, axes: rules.Axes, **static: Any) -> bool:
        return supports(*rules.parts(operands, axes), **static)

    mapped_native = Native(supports_parts, rules.loop(native.function))
    return _Implementations(vmap(reference), rules.loop(cpu), vmap(cpu), mapped_native)


def _cpu_rule(implementations: _Implementations, multiple_results: bool) -> Callable[..., Any]:
    """Returns the lowering rule for a CPU. The context manager `lowering` selects its result."""

    @functools.lru_cache(maxsize=256)
    def counted(**static: Any) -> Function:
        # JAX traces a function under `jit` once for all operands of equal shapes.
        return jax.jit(functools.partial(implementations.reference, **static))

    def rule(context: mlir.LoweringRuleContext, *operands: Any, **static: Any) -> Any:
        function, is_native = _selected(implementations, context, static)
        if is_native:
            # XLA's cost analysis counts nothing for a native kernel. It counts this call of a
            # function whose result nothing uses; the compiler removes the call.
            unused = mlir.lower_fun(counted(**static), multiple_results)
            unused(dataclasses.replace(context), *operands)
        function = functools.partial(function, **static)
        return mlir.lower_fun(function, multiple_results)(context, *operands)

    return rule


def _selected(
    implementations: _Implementations, context: mlir.LoweringRuleContext, static: dict[str, Any]
) -> tuple[Function, bool]:
    """Returns the implementation for a CPU, and True if it is the native kernel."""
    selected, native = _lowering.get(), implementations.native
    if selected == "plain":
        return implementations.reference, False
    if _is_portable(context):
        return implementations.portable, False
    if native is None or selected == "xla" or not native.supports(*context.avals_in, **static):
        return implementations.cpu, False
    return native.function, True


def _is_portable(context: mlir.LoweringRuleContext) -> bool:
    """Returns True if the program is exported, or compiled for several devices.

    An exported program may run on another machine. XLA partitions a program for several devices.
    Native kernels support neither.
    """
    module = context.module_context
    devices = getattr(module.axis_context, "num_devices", None)
    return bool(module.lowering_parameters.for_export) or devices != 1
