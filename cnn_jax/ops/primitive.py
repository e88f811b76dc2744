"""Primitives that have a lowering of their own for the CPU and `jax.lax`'s elsewhere."""

import contextlib
import contextvars
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

Function = Callable[..., jax.Array]

# Of what the primitives may be given; `jax.lax` has more.
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)

_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """What is lowered within is `jax.lax`'s on a CPU too, to compare with.

    That is when a function is compiled, not when it is called, and not where JAX has it compiled
    already:

    >>> f = jax.jit(lambda x: x + 1)
    >>> with plain():
    ...     compiled = f.lower(jnp.ones(3)).compile()
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_automatic(x: jax.Array) -> bool:
    """Whether XLA decides how `x` is sharded, and not its type or a `shard_map`.

    The others need rules of their own, which `jax.lax` has and these primitives have not.
    """
    return all(kind == AxisType.Auto for kind in jax.typeof(x).sharding.mesh.axis_types)


def define(name: str, reference: Function, cpu: Function, images: Sequence[bool] = ()) -> Primitive:
    """A primitive without derivatives; these are for the caller to add.

    Args:
      name: shown in jaxprs.
      reference: what it is, in terms of `jax.lax`: its result, and its lowering off the CPU.
      cpu: the same result, faster on a CPU.
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

    def on_cpu(*operands: jax.Array, **static: Any) -> jax.Array:
        return (reference if _plain.get() else cpu)(*operands, **static)

    primitive.def_impl(implementation)
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(reference, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), "cpu")
    return primitive
