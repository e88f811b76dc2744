"""Batching, differentiation and Taylor rules that the primitives of `cnn_jax.ops` share.

Each primitive has a mapped version: the `vmap` of the primitive, as a primitive of its own. The
operands that have a mapped axis have it in front, and so has the result. The parameter `axes` holds
0 for each of them and None for the other operands, as the `in_axes` of `jax.vmap`. Its rules follow
from those of the primitive: the derivative of a `vmap` is the `vmap` of the derivative.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.runtime.jax_internals import Primitive, ad, batching, jet

Axes = tuple[int | None, ...]
# Coefficients of degree 1 and higher of the Taylor series of each operand.
Series = Sequence[Sequence[jax.Array]]

# Up to this many calls for the parts of a mapped axis are separate operations. More are a loop,
# which compiles once.
_UNROLLED = 8
_taylor_rules: Any = jet.jet_rules  # Its values have no common type.


def define_batching(primitive: Primitive, mapped: Primitive, has_batch: Sequence[bool]) -> None:
    """Registers the `vmap` rule of `primitive`: it binds the primitive `mapped` instead.

    Args:
      primitive: the primitive.
      mapped: the primitive that computes the `vmap` of `primitive`; the mapped axis comes first.
      has_batch: see `primitive.define`.
    """

    def batched(operands: Sequence[jax.Array], axes: Sequence[int | None], **static: Any) -> Any:
        front = [
            x if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ]
        if [axis is not None for axis in axes] != list(has_batch):
            fronts = tuple(None if axis is None else 0 for axis in axes)
            result = mapped.bind(*front, axes=fronts, **static)
            return result, jax.tree.map(lambda _: 0, result)
        merged = [
            lax.collapse(x, 0, 2) if has_axis else x
            for x, has_axis in zip(front, has_batch, strict=True)
        ]
        return _split_axis(primitive.bind(*merged, **static), *front[0].shape[:2])

    batching.primitive_batchers[primitive] = batched


def define_mapped(primitive: Primitive, mapped: Primitive) -> None:
    """Defines the batching, differentiation and Taylor rules of the mapped version."""
    ad.primitive_jvps[mapped] = functools.partial(_mapped_jvp, primitive)
    ad.primitive_transposes[mapped] = functools.partial(_mapped_transpose, primitive)
    batching.primitive_batchers[mapped] = functools.partial(_merge_axes, mapped)
    _taylor_rules[mapped] = functools.partial(_mapped_series, primitive)


def loop(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the `vmap` of `function` as one call after the other, for a mapped primitive."""

    def run(*operands: jax.Array, axes: Axes, **static: Any) -> jax.Array:
        positions = [i for i, axis in enumerate(axes) if axis is not None]
        mapped = [operands[i] for i in positions]

        def step(_: None, own: list[jax.Array]) -> tuple[None, jax.Array]:
            return None, function(*_replaced(operands, positions, own), **static)

        length = len(mapped[0])
        unroll = length if 1 <= length <= _UNROLLED else 1
        return lax.scan(step, None, mapped, unroll=unroll)[1]

    return run


def parts(operands: Sequence[jax.Array], axes: Axes) -> Iterator[jax.ShapeDtypeStruct]:
    """Yields the shape and dtype of each operand, without the mapped axis."""
    for x, axis in zip(operands, axes, strict=True):
        yield jax.ShapeDtypeStruct(x.shape if axis is None else x.shape[1:], x.dtype)


def _mapped_jvp(
    primitive: Primitive,
    primals: Sequence[jax.Array],
    tangents: Sequence[Any],
    *,
    axes: Axes,
    **static: Any,
) -> Any:
    positions = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def push_forward(primals: list[jax.Array], own: list[jax.Array]) -> Any:
        def function(*changed: jax.Array) -> Any:
            return primitive.bind(*_replaced(primals, positions, changed), **static)

        return jax.jvp(function, [primals[i] for i in positions], own)

    in_axes = list(axes), [axes[i] for i in positions]
    given = [tangents[i] for i in positions]
    return jax.vmap(push_forward, in_axes)(list(primals), given)


def _mapped_transpose(
    primitive: Primitive, cotangent: jax.Array, *operands: Any, axes: Axes, **static: Any
) -> list[jax.Array | None]:
    (position,) = (i for i, x in enumerate(operands) if ad.is_undefined_primal(x))
    avals = [x.aval if i == position else x for i, x in enumerate(operands)]
    shape = list(parts(avals, axes))[position]
    known = [None if i == position else x for i, x in enumerate(operands)]

    def pull_back(cotangent: jax.Array, known: list[Any]) -> jax.Array:
        def function(x: jax.Array) -> jax.Array:
            return primitive.bind(*_replaced(known, [position], [x]), **static)

        return jax.linear_transpose(function, shape)(cotangent)[0]

    known_axes = [None if i == position else axis for i, axis in enumerate(axes)]
    result = jax.vmap(pull_back, (0, known_axes))(cotangent, known)
    own = result if axes[position] == 0 else result.sum(0)
    return [own if i == position else None for i in range(len(operands))]


def _merge_axes(
    mapped: Primitive,
    operands: Sequence[jax.Array],
    outer_axes: Sequence[int | None],
    *,
    axes: Axes,
    **static: Any,
) -> Any:
    """Batching rule of a mapped primitive: merges the two mapped axes into one."""
    triples = list(zip(operands, outer_axes, axes, strict=True))
    outer = next(x.shape[axis] for x, axis, _ in triples if axis is not None)
    inner = next(
        jnp.moveaxis(x, axis or 0, 0).shape[axis is not None]
        for x, axis, own in triples
        if own is not None
    )

    def merge(x: jax.Array, outer_axis: int | None, axis: int | None) -> jax.Array:
        if outer_axis is None and axis is None:
            return x
        x = x[None] if outer_axis is None else jnp.moveaxis(x, outer_axis, 0)
        x = x[:, None] if axis is None else x
        return lax.collapse(jnp.broadcast_to(x, (outer, inner, *x.shape[2:])), 0, 2)

    merged_axes = tuple(None if (a, b) == (None, None) else 0 for _, a, b in triples)
    result = mapped.bind(*(merge(*triple) for triple in triples), axes=merged_axes, **static)
    return _split_axis(result, outer, inner)


def _split_axis(results: Any, outer: int, inner: int) -> Any:
    """Reshapes the first axis of results to `(outer, inner)`; also returns 0, the mapped axis."""
    split = jax.tree.map(lambda y: y.reshape(outer, inner, *y.shape[1:]), results)
    return split, jax.tree.map(lambda _: 0, split)


def _mapped_series(
    primitive: Primitive,
    primals: Sequence[jax.Array],
    series: Series,
    *,
    axes: Axes,
    **static: Any,
) -> Any:
    def rule(primals: list[jax.Array], series: list[list[jax.Array]]) -> Any:
        return _taylor_rules[primitive](primals, series, **static)

    in_axes = list(axes), [[axis] * len(terms) for axis, terms in zip(axes, series, strict=True)]
    given = list(primals), [list(terms) for terms in series]
    return jax.vmap(rule, in_axes)(*given)


def define_series(primitive: Primitive, reference: Callable[..., jax.Array]) -> None:
    """Registers the rule of `primitive` for `jax.experimental.jet`: the jet of `reference`."""

    def rule(primals: Sequence[jax.Array], series: Series, **static: Any) -> Any:
        function = functools.partial(reference, **static)
        return jet.jet(function, primals, series, factorial_scaled=False)

    _taylor_rules[primitive] = rule


def define_bilinear_series(primitive: Primitive) -> None:
    """Defines the Taylor rule of a map that is linear in each of its two operands."""

    def rule(primals: Sequence[jax.Array], series: Series, **static: Any) -> Any:
        first, second = ([x, *terms] for x, terms in zip(primals, series, strict=True))
        coefficients = [
            sum(primitive.bind(first[j], second[k - j], **static) for j in range(k + 1))
            for k in range(len(first))
        ]
        return coefficients[0], coefficients[1:]

    _taylor_rules[primitive] = rule


def define_linear_series(primitive: Primitive, tangent: Primitive | None = None) -> None:
    """Defines the Taylor rule of a map that is linear in its first operand, or piecewise linear.

    Args:
      primitive: map. It must be piecewise constant in its other operands.
      tangent: for a piecewise linear map of one operand, the linear map of the tangent and of that
        operand.
    """

    def rule(primals: Sequence[jax.Array], series: Series, **static: Any) -> Any:
        linear, others = (primitive, primals[1:]) if tangent is None else (tangent, primals)
        terms = [linear.bind(term, *others, **static) for term in series[0]]
        return primitive.bind(*primals, **static), terms

    _taylor_rules[primitive] = rule


def _replaced(
    operands: Sequence[Any], positions: Sequence[int], values: Sequence[jax.Array]
) -> list[Any]:
    """Returns `operands` with `values` at `positions`."""
    changed = dict(zip(positions, values, strict=True))
    return [changed.get(i, x) for i, x in enumerate(operands)]
