"""Conversion of a traced network (jaxpr) to an ONNX graph."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax import errors
from cnn_jax.export.onnx import layout, pointwise, products
from cnn_jax.export.onnx.graph import (
    Graph,
    Operand,
    check_dtype,
    is_static,
    shape_of,
    wide,
    widened,
)
from cnn_jax.ops import primitive
from cnn_jax.runtime.jax_internals import ClosedJaxpr, Jaxpr, JaxprEqn

# Primitives that call a function, and the parameters that hold it.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
_CALLS_WITH_RULES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_FUNCTIONS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_RULES: Mapping[str, Any] = {**layout.RULES, **products.RULES}
_BROADCAST = "broadcast_in_dim"


def convert(graph: Graph, closed: ClosedJaxpr, operands: Sequence[Operand]) -> list[Operand]:
    """Adds the nodes of a traced function to a graph.

    Functions that it calls are inlined, and so are the definitions of the primitives of
    `cnn_jax.ops` in terms of `jax.lax`. What does not depend on the input is computed here.
    Numbers that JAX computes in float16 or bfloat16 are float32 in the graph.

    Args:
      graph: the graph.
      closed: the function.
      operands: its arguments: arrays, and values of the graph.

    Returns:
      The results. An axis can have size 1 where the function repeats its elements.

    Raises:
      UserError: a primitive has no rule, or a value has a dtype without support.
    """
    jaxpr = closed.jaxpr
    known: dict[Any, Operand] = {}

    def read(variable: Any) -> Operand:
        if hasattr(variable, "val"):  # a literal
            return widened(np.asarray(variable.val, variable.aval.dtype))
        return known[variable]

    constants = [widened(np.asarray(constant)) for constant in closed.consts]
    known.update(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, operands, strict=True))
    for equation in jaxpr.eqns:
        results = _results(graph, equation, [read(variable) for variable in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _results(graph: Graph, equation: JaxprEqn, operands: list[Operand]) -> Sequence[Operand]:
    inner = _function(equation)
    if inner is not None:
        full = [
            graph.full(operand, shape_of(variable))
            for operand, variable in zip(operands, equation.invars, strict=True)
        ]
        return convert(graph, inner, full)
    name = equation.primitive.name
    is_pointwise = name in pointwise.names()
    if name in pointwise.IDENTITIES:
        return operands
    arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
    static = all(is_static(shape_of(variable)) for variable in equation.outvars)
    if len(arrays) == len(operands) and (static or is_pointwise):
        return _computed(equation, np.broadcast_arrays(*arrays) if is_pointwise else arrays)
    variables: Sequence[Any] = equation.outvars
    for variable in variables:
        check_dtype(variable.aval.dtype)
    if is_pointwise:
        return [pointwise.add(graph, equation, *operands)]
    if name == _BROADCAST:
        return [layout.broadcast(graph, equation, *operands)]
    if name not in _RULES:
        allowed = sorted((*_RULES, *pointwise.names(), _BROADCAST))
        raise errors.UserError(
            f"the primitive {name!r} has no ONNX rule; supported are {', '.join(allowed)}. Export "
            "with --format=jax, or change the network"
        )
    full = [
        graph.full(operand, shape_of(variable))
        for operand, variable in zip(operands, equation.invars, strict=True)
    ]
    found = _RULES[name](graph, equation, *full)
    return found if isinstance(found, list) else [found]


def _computed(equation: JaxprEqn, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the results of an equation whose operands are known."""
    params = {
        key: wide(value) if isinstance(value, np.dtype) else value
        for key, value in equation.params.items()
    }
    found = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **params)
    results = found if equation.primitive.multiple_results else [found]
    return [widened(np.asarray(result)) for result in results]


def _function(equation: JaxprEqn) -> ClosedJaxpr | None:
    """Returns the function that an equation calls, or None for other primitives."""
    reference = primitive.reference(equation.primitive)
    if reference is not None:
        variables: Sequence[Any] = equation.invars
        shapes = [jax.ShapeDtypeStruct(one.aval.shape, one.aval.dtype) for one in variables]
        return jax.make_jaxpr(functools.partial(reference, **equation.params))(*shapes)
    if equation.primitive.name in (*_CALLS, *_CALLS_WITH_RULES):
        params = equation.params
        found = next(params[key] for key in _FUNCTIONS if key in params)
        return ClosedJaxpr(found, ()) if isinstance(found, Jaxpr) else found
    return None
