"""ONNX nodes of the primitives that compute each element on its own."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn_jax.export.onnx.graph import Graph, Operand, Shape, check_dtype, wide
from cnn_jax.runtime.jax_internals import JaxprEqn

# Primitives of JAX that have the meaning of an operator of ONNX.
_OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        "abs": "Abs",
        "add": "Add",
        "add_any": "Add",
        "and": "And",
        "ceil": "Ceil",
        "cos": "Cos",
        "div": "Div",
        "eq": "Equal",
        "erf": "Erf",
        "exp": "Exp",
        "floor": "Floor",
        "ge": "GreaterOrEqual",
        "gt": "Greater",
        "le": "LessOrEqual",
        "log": "Log",
        "logistic": "Sigmoid",
        "lt": "Less",
        "max": "Max",
        "min": "Min",
        "mul": "Mul",
        "neg": "Neg",
        "not": "Not",
        "or": "Or",
        "pow": "Pow",
        "sign": "Sign",
        "sin": "Sin",
        "sqrt": "Sqrt",
        "sub": "Sub",
        "tanh": "Tanh",
    }
)
IDENTITIES = ("copy", "copy_p", "stop_gradient", "optimization_barrier")


def names() -> tuple[str, ...]:
    """Returns the primitives that `add` supports."""
    return (*_OPERATORS, *_COMPOSED, *_WITH_PARAMETERS, *IDENTITIES)


def add(graph: Graph, equation: JaxprEqn, *operands: Operand) -> Operand:
    """Adds the nodes of an elementwise primitive.

    Operands may have axes of size 1 in place of repeated ones; so may the result.
    """
    name = equation.primitive.name
    if name in IDENTITIES:
        return operands[0]
    shape = _common(*operands)
    if name in _OPERATORS:
        return graph.add(_OPERATORS[name], operands, shape)
    if name in _COMPOSED:
        return _COMPOSED[name](graph, shape, *operands)
    return _WITH_PARAMETERS[name](graph, equation, shape, *operands)


def _common(*operands: Operand) -> Shape:
    """Returns the shape of operands that are repeated along axes of size 1, as NumPy does."""
    rank = max(len(operand.shape) for operand in operands)
    shapes = [(1,) * (rank - len(operand.shape)) + operand.shape for operand in operands]
    return tuple(
        next((size for size in sizes if not isinstance(size, int) or size != 1), 1)
        for sizes in zip(*shapes, strict=True)
    )


def _cast(graph: Graph, equation: JaxprEqn, shape: Shape, x: Operand) -> Operand:
    variable: Any = equation.invars[0]
    dtype = equation.params["new_dtype"]
    check_dtype(dtype)
    if wide(variable.aval.dtype) == wide(dtype):
        return x
    return graph.add("Cast", [x], shape, to=graph.kind(wide(dtype)))


def _select(
    graph: Graph,
    shape: Shape,
    which: Operand,
    if_false: Operand,
    if_true: Operand,
) -> Operand:
    return graph.add("Where", [which, if_true, if_false], shape)


def _clamp(
    graph: Graph,
    shape: Shape,
    least: Operand,
    x: Operand,
    most: Operand,
) -> Operand:
    return graph.add("Min", [graph.add("Max", [x, least], shape), most], shape)


def _integer_pow(graph: Graph, equation: JaxprEqn, shape: Shape, x: Operand) -> Operand:
    power = equation.params["y"]
    if power == 2:
        return graph.add("Mul", [x, x], shape)
    return graph.add("Pow", [x, np.array(power, np.float32)], shape)


def _square(graph: Graph, shape: Shape, x: Operand) -> Operand:
    return graph.add("Mul", [x, x], shape)


def _rsqrt(graph: Graph, shape: Shape, x: Operand) -> Operand:
    return graph.add("Reciprocal", [graph.add("Sqrt", [x], shape)], shape)


def _erfc(graph: Graph, shape: Shape, x: Operand) -> Operand:
    """Adds `1 - erf(x)`. Its absolute error is that of erf, also where erfc is nearly 0."""
    return graph.add("Sub", [_ONE, graph.add("Erf", [x], shape)], shape)


def _log1p(graph: Graph, shape: Shape, x: Operand) -> Operand:
    return graph.add("Log", [graph.add("Add", [x, _ONE], shape)], shape)


def _expm1(graph: Graph, shape: Shape, x: Operand) -> Operand:
    return graph.add("Sub", [graph.add("Exp", [x], shape), _ONE], shape)


def _exp2(graph: Graph, shape: Shape, x: Operand) -> Operand:
    return graph.add("Pow", [np.array(2, np.float32), x], shape)


def _not_equal(graph: Graph, shape: Shape, x: Operand, y: Operand) -> Operand:
    return graph.add("Not", [graph.add("Equal", [x, y], shape)], shape)


_ONE = np.array(1, np.float32)
_COMPOSED: Mapping[str, Any] = MappingProxyType(
    {
        "clamp": _clamp,
        "erfc": _erfc,
        "exp2": _exp2,
        "expm1": _expm1,
        "log1p": _log1p,
        "ne": _not_equal,
        "rsqrt": _rsqrt,
        "select_n": _select,
        "square": _square,
    }
)
_WITH_PARAMETERS: Mapping[str, Any] = MappingProxyType(
    {"convert_element_type": _cast, "integer_pow": _integer_pow}
)
