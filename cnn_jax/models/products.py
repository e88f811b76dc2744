"""Multiply-adds of the convolutions and matrix products that a function computes.

The products are read from the jaxpr of the function. Products of two activations, such as attention
scores, are included. Each tap of a kernel costs one multiply-add, also where it reads padding.
"""

import collections
import contextlib
import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from cnn_jax.ops import primitive
from cnn_jax.runtime.jax_internals import ClosedJaxpr, Jaxpr, JaxprEqn

_SCOPE = "cnn_jax.products."  # Name scope of a part, followed by its number.
_NUMBERS = itertools.count()  # JAX keeps traces, so a number is never used again.


class Parts:
    """Parts of a function that is traced, such as the calls of its layers.

    Parts may contain others. A product belongs to the innermost part that contains it.
    """

    def __init__(self) -> None:
        """Starts without parts."""
        self._ancestors: dict[int, tuple[int, ...]] = {}
        self._stack: list[int] = []

    @contextlib.contextmanager
    def part(self) -> Iterator[int]:
        """Context manager that opens a new part and yields its number.

        Operations that are traced within the context belong to this part.
        """
        number = next(_NUMBERS)
        self._ancestors[number] = tuple(self._stack)
        self._stack.append(number)
        try:
            with jax.named_scope(f"{_SCOPE}{number}"):
                yield number
        finally:
            self._stack.pop()

    def multiply_adds(
        self, jaxpr: ClosedJaxpr, weights: Mapping[int, int]
    ) -> collections.Counter[int]:
        """Returns the multiply-adds of each part.

        Args:
          jaxpr: the traced function.
          weights: number of kernel weights of each part, 0 for none. If a kernel has more taps than
            its part has weights, the other taps are zeros for missing connections. They cost
            nothing.
        """
        costs: collections.Counter[int] = collections.Counter()
        for part, cost, taps in self._products(jaxpr.jaxpr, -1):
            present = min(weights.get(part) or taps, taps)
            costs[part] += cost * present // taps if taps else cost
        return costs

    def _products(self, jaxpr: Jaxpr, part: int) -> Iterator[tuple[int, int, int]]:
        """Yields part, multiply-adds and number of taps of each product.

        Args:
          jaxpr: a jaxpr.
          part: the part that contains the jaxpr; -1 for none.

        Yields:
          The taps are those of a convolution's kernel; 0 for a matrix product.
        """
        for eqn in jaxpr.eqns:
            own = self._part(eqn, part)
            cost = _cost(eqn)
            if cost is not None:
                yield own, *cost
            for times, inner in _inner(eqn):
                for owner, multiply_adds, taps in self._products(inner, own):
                    yield owner, times * multiply_adds, taps

    def _part(self, eqn: JaxprEqn, outer: int) -> int:
        """Returns the part of an equation in a jaxpr of the part `outer`.

        JAX traces a jitted function once. Its equations keep the scope of their first use, which
        can lie outside of `outer`.
        """
        scopes = re.findall(rf"{re.escape(_SCOPE)}(\d+)", str(eqn.source_info.name_stack))
        for number in map(int, reversed(scopes)):
            if number in self._ancestors and outer in (-1, number, *self._ancestors[number]):
                return number
        return outer


def _cost(eqn: JaxprEqn) -> tuple[int, int] | None:
    """Returns multiply-adds and number of taps; see `Parts._products`. None for no product."""
    result: Any = eqn.outvars[0].aval if eqn.outvars else None
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        first: Any = eqn.invars[0].aval
        return math.prod((*result.shape, *(first.shape[axis] for axis in contracted))), 0
    if eqn.primitive.name != "conv_general_dilated":
        return None
    avals: list[Any] = [operand.aval for operand in eqn.invars]
    images, kernel = avals
    outputs, inputs, *_ = eqn.params["dimension_numbers"].rhs_spec
    if math.prod(eqn.params["lhs_dilation"]) == 1:
        return result.size * kernel.size // kernel.shape[outputs], kernel.size
    # A transposed convolution: each pixel of the images meets each of its taps once.
    groups = eqn.params["feature_group_count"]
    return images.size * kernel.size // (kernel.shape[inputs] * groups), kernel.size


def _inner(eqn: JaxprEqn) -> Sequence[tuple[int, Jaxpr]]:
    """Returns the jaxprs of an equation, each with the number of times that it runs."""
    reference = primitive.reference(eqn.primitive)
    if reference is not None:
        avals: list[Any] = [operand.aval for operand in eqn.invars]
        operands = tuple((aval.shape, aval.dtype) for aval in avals)
        return [(1, _traced(reference, operands, tuple(eqn.params.items())).jaxpr)]
    found = jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda value: isinstance(value, Jaxpr | ClosedJaxpr)
    )
    jaxprs = [
        value.jaxpr if isinstance(value, ClosedJaxpr) else value
        for value in found
        if isinstance(value, Jaxpr | ClosedJaxpr)
    ]
    return [(eqn.params.get("length", 1), jaxpr) for jaxpr in jaxprs]


@functools.lru_cache(maxsize=256)
def _traced(
    function: primitive.Function,
    operands: tuple[tuple[tuple[int, ...], Any], ...],
    static: tuple[tuple[str, Any], ...],
) -> ClosedJaxpr:
    """Returns the jaxpr of a reference implementation."""
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in operands]
    return jax.make_jaxpr(functools.partial(function, **dict(static)))(*arrays)
