"""ONNX nodes of convolutions, matrix products and pooling over windows."""

import math
import string
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn_jax.export.onnx import layout
from cnn_jax.export.onnx.graph import Graph, Operand, Shape, shape_of
from cnn_jax.export.onnx.refusals import unsupported
from cnn_jax.runtime.jax_internals import JaxprEqn


def _convolve(graph: Graph, equation: JaxprEqn, images: Operand, kernel: Operand) -> Operand:
    """Adds a convolution between transpositions from and to the layout of JAX."""
    params = equation.params
    numbers = params["dimension_numbers"]
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise unsupported(equation, "dilated images or groups of the batch")
    if any(number < 0 for end in params["padding"] for number in end):
        raise unsupported(equation, "negative padding")
    shape = shape_of(equation.outvars[0])
    result = graph.add(
        "Conv",
        [graph.transpose(images, numbers.lhs_spec), graph.transpose(kernel, numbers.rhs_spec)],
        tuple(shape[axis] for axis in numbers.out_spec),
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        pads=[low for low, _ in params["padding"]] + [high for _, high in params["padding"]],
        group=params["feature_group_count"],
    )
    return graph.transpose(result, _inverse(numbers.out_spec))


def _multiply(graph: Graph, equation: JaxprEqn, x: Operand, y: Operand) -> Operand:
    """Adds a MatMul if the last axis of x meets a matrix, else an Einsum."""
    (x_summed, y_summed), (x_batch, y_batch) = equation.params["dimension_numbers"]
    shape = shape_of(equation.outvars[0])
    last = len(x.shape) - 1
    if not x_batch and tuple(x_summed) == (last,) and last > 0 and len(y.shape) == 2:
        y = y if tuple(y_summed) == (0,) else graph.transpose(y, (1, 0))
        return graph.add("MatMul", [x, y], shape)
    letters = iter(string.ascii_letters)
    of_x = {axis: next(letters) for axis in range(len(x.shape))}
    shared = dict(zip((*y_batch, *y_summed), (*x_batch, *x_summed), strict=True))
    of_y = {
        axis: of_x[shared[axis]] if axis in shared else next(letters)
        for axis in range(len(y.shape))
    }
    result = [
        *(of_x[axis] for axis in x_batch),
        *(of_x[axis] for axis in of_x if axis not in (*x_batch, *x_summed)),
        *(of_y[axis] for axis in of_y if axis not in shared),
    ]
    words = ["".join(part) for part in (of_x.values(), of_y.values(), result)]
    return graph.add("Einsum", [x, y], shape, equation=f"{words[0]},{words[1]}->{words[2]}")


def _maximum(graph: Graph, equation: JaxprEqn, x: Operand) -> Operand:
    return _pool(graph, equation, x, "MaxPool", -np.inf)


def _sum(graph: Graph, equation: JaxprEqn, x: Operand) -> Operand:
    """Adds the sums of windows: their means, times the number of elements."""
    means = _pool(graph, equation, x, "AveragePool", 0.0)
    count = np.array(math.prod(equation.params["window_dimensions"]), np.float32)
    return graph.add("Mul", [means, count], means.shape)


def _pool(graph: Graph, equation: JaxprEqn, x: Operand, op: str, outside: float) -> Operand:
    """Adds a pooling of the axes that have windows; the padding is a node of its own.

    ONNX pools `[N, C, ...]`. The other axes are N and C if there are two of them. Otherwise they
    become one.
    """
    params = equation.params
    dilations = (*params["base_dilation"], *params["window_dilation"])
    if any(step != 1 for step in dilations):
        raise unsupported(equation, "dilated windows")
    windows, strides = params["window_dimensions"], params["window_strides"]
    spatial = [axis for axis in range(len(windows)) if windows[axis] != 1 or strides[axis] != 1]
    x = layout.pad(graph, x, params["padding"], np.array(outside, np.float32))
    if not spatial:
        return x
    others = [axis for axis in range(len(windows)) if axis not in spatial]
    order, shape = [*others, *spatial], shape_of(equation.outvars[0])
    images, result = graph.transpose(x, order), tuple(shape[axis] for axis in order)
    merged = images.shape[: len(others)] if len(others) == 2 else _merged(images.shape, others)
    images = graph.reshape(images, (*merged, *images.shape[len(others) :]))
    pooled: Operand = graph.add(
        op,
        [images],
        (*merged, *result[len(others) :]),
        kernel_shape=[windows[axis] for axis in spatial],
        strides=[strides[axis] for axis in spatial],
    )
    return graph.transpose(graph.reshape(pooled, result), _inverse(order))


def _merged(shape: Shape, others: Sequence[int]) -> Shape:
    return (math.prod(shape[: len(others)]), 1)


def _inverse(permutation: Sequence[int]) -> list[int]:
    return [int(place) for place in np.argsort(permutation)]


RULES: Mapping[str, Any] = MappingProxyType(
    {
        "conv_general_dilated": _convolve,
        "dot_general": _multiply,
        "reduce_window_max": _maximum,
        "reduce_window_sum": _sum,
    }
)
"""Rules that take operands in their full shapes."""
