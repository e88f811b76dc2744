"""ONNX nodes of the primitives that move elements: shapes, axes, parts, and reductions of axes."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn_jax.export.onnx.graph import Graph, Operand, shape_of
from cnn_jax.export.onnx.refusals import unsupported
from cnn_jax.runtime.jax_internals import JaxprEqn


def broadcast(graph: Graph, equation: JaxprEqn, x: Operand, *_: Operand) -> Operand:
    """Returns `x` with its axes in their places, and size 1 where elements are repeated."""
    shape = shape_of(equation.outvars[0])
    compact: list[Any] = [1] * len(shape)
    for size, axis in zip(x.shape, equation.params["broadcast_dimensions"], strict=True):
        compact[axis] = size
    return graph.reshape(x, tuple(compact))


def _reshape(graph: Graph, equation: JaxprEqn, x: Operand, *_: Operand) -> Operand:
    return graph.reshape(x, shape_of(equation.outvars[0]))


def _transpose(graph: Graph, equation: JaxprEqn, x: Operand) -> Operand:
    return graph.transpose(x, equation.params["permutation"])


def _concatenate(graph: Graph, equation: JaxprEqn, *parts: Operand) -> Operand:
    axis = equation.params["dimension"]
    return graph.add("Concat", parts, shape_of(equation.outvars[0]), axis=axis)


def _stack(graph: Graph, equation: JaxprEqn, *parts: Operand) -> Operand:
    shape, axis = shape_of(equation.outvars[0]), equation.params["axis"]
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    return graph.add("Concat", [graph.reshape(part, one) for part in parts], shape, axis=axis)


def _split(graph: Graph, equation: JaxprEqn, x: Operand) -> Sequence[Operand]:
    sizes = np.array(equation.params["sizes"], np.int64)
    shapes = [shape_of(variable) for variable in equation.outvars]
    return graph.add_several("Split", [x, sizes], shapes, axis=equation.params["axis"])


def _unstack(graph: Graph, equation: JaxprEqn, x: Operand) -> Sequence[Operand]:
    """Adds a split into parts of one element, without their axis; a primitive of JAX 0.12."""
    axis, count = equation.params["axis"], len(equation.outvars)
    one = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    parts = graph.add_several("Split", [x, np.ones(count, np.int64)], [one] * count, axis=axis)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return [graph.reshape(part, shape) for part in parts]


def _slice(graph: Graph, equation: JaxprEqn, x: Operand) -> Operand:
    params = equation.params
    strides = params["strides"] or (1,) * len(x.shape)
    starts, limits = params["start_indices"], params["limit_indices"]
    return cut(graph, equation, x, starts, limits, strides)


def cut(
    graph: Graph,
    equation: JaxprEqn,
    x: Operand,
    starts: Sequence[Any],
    limits: Sequence[Any],
    strides: Sequence[int],
) -> Operand:
    """Adds the node of a part of `x`.

    Args:
      graph: the graph.
      equation: the equation, for the error message.
      x: the operand.
      starts: the first index of each axis.
      limits: the index after the last one of each axis.
      strides: the distance of indices of each axis.

    Raises:
      UserError: the part of an axis depends on the batch size.
    """
    rows = zip(x.shape, starts, limits, strides, strict=True)
    wanted = [
        (axis, start, limit, stride)
        for axis, (size, start, limit, stride) in enumerate(rows)
        if not (stride == 1 and isinstance(start, int) and start == 0 and limit == size)
    ]
    if not wanted:
        return x
    if not all(isinstance(number, int) for row in wanted for number in row):
        raise unsupported(equation, "a part of the batch")
    axes, first, last, steps = (np.array(column, np.int64) for column in zip(*wanted, strict=True))
    shape = list(x.shape)
    for axis, start, limit, stride in wanted:
        shape[axis] = -(-(limit - start) // stride)
    return graph.add("Slice", [x, first, last, axes, steps], tuple(shape))


def _pad(graph: Graph, equation: JaxprEqn, x: Operand, value: Operand) -> Operand:
    config = equation.params["padding_config"]
    if any(interior for _, _, interior in config):
        raise unsupported(equation, "padding between elements")
    return pad(graph, x, [(low, high) for low, high, _ in config], value)


def pad(graph: Graph, x: Operand, ends: Sequence[tuple[int, int]], value: Operand) -> Operand:
    """Adds the node that pads each axis of `x` by (before, after) elements of `value`."""
    if not any(number for end in ends for number in end):
        return x
    pads = np.array(list(zip(*ends, strict=True)), np.int64).reshape(-1)
    shape = tuple(size + low + high for size, (low, high) in zip(x.shape, ends, strict=True))
    return graph.add("Pad", [x, pads, value], shape, mode="constant")


def _gather(graph: Graph, equation: JaxprEqn, x: Operand, indices: Operand) -> Operand:
    """Adds the nodes of a gather whose indices are known: a part, or entries of one axis."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, axes = shape_of(equation.outvars[0]), numbers.start_index_map
    if not isinstance(indices, np.ndarray) or numbers.operand_batching_dims:
        raise unsupported(equation, "indices that depend on the input")
    if indices.size == len(axes):
        starts: list[Any] = [0] * len(x.shape)
        for axis, index in zip(axes, indices.reshape(-1), strict=True):
            starts[axis] = min(max(int(index), 0), x.shape[axis] - sizes[axis])
        limits = [start + size for start, size in zip(starts, sizes, strict=True)]
        part = cut(graph, equation, x, starts, limits, (1,) * len(starts))
        return graph.reshape(part, shape)
    whole = all(size == (1 if axis in axes else x.shape[axis]) for axis, size in enumerate(sizes))
    if tuple(sorted(axes)) != tuple(numbers.collapsed_slice_dims) or not whole:
        raise unsupported(equation, "several parts of the operand")
    return _entries(graph, x, axes, indices, numbers.offset_dims)


def _entries(
    graph: Graph, x: Operand, axes: Sequence[int], indices: np.ndarray, places: Sequence[int]
) -> Operand:
    """Adds the nodes that take the entries of `x` at known indices of some axes.

    Args:
      graph: the graph.
      x: the operand.
      axes: the axes that the indices are for; they become one.
      indices: `[..., len(axes)]`; those out of range are clipped.
      places: the places of the other axes in the result. The axes of the indices get the rest.
    """
    others = [axis for axis in range(len(x.shape)) if axis not in axes]
    kept, sizes = (tuple(x.shape[axis] for axis in part) for part in (others, axes))
    flat = graph.reshape(graph.transpose(x, [*others, *axes]), (*kept, math.prod(sizes)))
    last = np.array(sizes) - 1
    columns = tuple(np.moveaxis(np.clip(indices, 0, last), -1, 0))
    entries = np.ravel_multi_index(columns, sizes).astype(np.int64)
    found = graph.add("Gather", [flat, entries], (*kept, *entries.shape), axis=len(kept))
    order = dict(zip(places, range(len(kept)), strict=True))
    rest = iter(range(len(kept), len(found.shape)))
    return graph.transpose(
        found, [order[place] if place in order else next(rest) for place in range(len(found.shape))]
    )


def _reduce(graph: Graph, equation: JaxprEqn, x: Operand) -> Operand:
    op = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
    axes = np.array(equation.params["axes"], np.int64)
    return graph.add(
        op[equation.primitive.name], [x, axes], shape_of(equation.outvars[0]), keepdims=0
    )


RULES: Mapping[str, Any] = MappingProxyType(
    {
        "concatenate": _concatenate,
        "expand_dims": _reshape,
        "gather": _gather,
        "pad": _pad,
        "reduce_max": _reduce,
        "reduce_min": _reduce,
        "reduce_sum": _reduce,
        "reshape": _reshape,
        "slice": _slice,
        "split": _split,
        "squeeze": _reshape,
        "stack": _stack,
        "transpose": _transpose,
        "unstack": _unstack,
    }
)
"""Rules that take operands in their full shapes."""
