"""Construction of an ONNX model, node by node; the only importer of the onnx package.

Symbolic sizes of `jax.export` stand for the sizes that depend on the batch. Each must be a multiple
of the batch size, because the model computes them from the shape of its input.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import errors
from cnn_jax.export import optional

# Opset 18 has the axes of reductions as an input. ONNX Runtime 1.14 (February 2023) and newer reads
# it: https://onnxruntime.ai/docs/reference/compatibility.html.
OPSET = 18
IR_VERSION = 8
INPUT = "pixels"
OUTPUT = "logits"
MAX_BYTES = 2**31 - 1  # of a Protocol Buffers message
_DTYPES = ("float32", "int32", "int64", "uint8", "bool")
_NARROW = ("bfloat16", "float16")  # The model computes these in float32.

Shape = tuple[Any, ...]
"""Sizes of axes: numbers, or symbolic sizes of `jax.export`."""


class Value(NamedTuple):
    """A tensor of the graph.

    Attributes:
      name: its name in the graph.
      shape: its sizes.
    """

    name: str
    shape: Shape


Operand = Value | np.ndarray
"""A tensor of the graph, or an array that is known when the model is written."""


class Graph:
    """An ONNX graph with one input, whose first axis is the batch.

    Attributes:
      pixels: the input.
    """

    def __init__(self, shape: Shape, dtype: str) -> None:
        """Makes a graph without nodes.

        Args:
          shape: of the input; its first size is the symbolic batch size.
          dtype: of the input.

        Raises:
          UserError: the onnx package is not installed.
        """
        self._onnx = optional.load("onnx")
        for part in ("helper", "numpy_helper", "checker"):
            importlib.import_module(f"onnx.{part}")
        self.pixels = Value(INPUT, shape)
        self._dtype = dtype
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._scalars: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._batch: Value | None = None

    def add(self, op: str, operands: Sequence[Operand], shape: Shape, **attributes: Any) -> Value:
        """Adds a node with one output of a given shape, and returns the output."""
        return self.add_several(op, operands, [shape], **attributes)[0]

    def add_several(
        self, op: str, operands: Sequence[Operand], shapes: Sequence[Shape], **attributes: Any
    ) -> list[Value]:
        """Adds a node with one output for each shape, and returns the outputs."""
        first = len(self._nodes)
        outputs = [f"{op.lower()}_{first}_{index}" for index in range(len(shapes))]
        inputs = [self._name(operand) for operand in operands]
        self._nodes.append(self._onnx.helper.make_node(op, inputs, outputs, **attributes))
        return [Value(name, shape) for name, shape in zip(outputs, shapes, strict=True)]

    def full(self, operand: Operand, shape: Shape) -> Operand:
        """Returns an operand with axes of size 1 repeated, so that it has the given shape."""
        if operand.shape == shape:
            return operand
        if isinstance(operand, np.ndarray) and is_static(shape):
            return np.broadcast_to(operand, shape)
        return self.add("Expand", [operand, self._sizes(shape)], shape)

    def reshape(self, operand: Operand, shape: Shape) -> Operand:
        """Returns an operand in another shape, in row-major order."""
        if operand.shape == shape:
            return operand
        if isinstance(operand, np.ndarray) and is_static(shape):
            return operand.reshape(shape)
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        target = np.array(sizes, np.int64) if sizes.count(-1) < 2 else self._sizes(shape)
        return self.add("Reshape", [operand, target], shape)

    def transpose(self, operand: Operand, permutation: Sequence[int]) -> Operand:
        """Returns an operand with its axes in another order, as `numpy.transpose` does."""
        if list(permutation) == list(range(len(permutation))):
            return operand
        if isinstance(operand, np.ndarray):
            return np.ascontiguousarray(operand.transpose(permutation))
        shape = tuple(operand.shape[axis] for axis in permutation)
        return self.add("Transpose", [operand], shape, perm=list(permutation))

    def kind(self, dtype: Any) -> int:
        """Returns the number by which ONNX knows a dtype."""
        number: int = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return number

    def model(self, logits: Operand, shape: Shape, metadata: Mapping[str, str]) -> bytes:
        """Returns the serialised model, which the onnx package has checked.

        Args:
          logits: the output.
          shape: its sizes.
          metadata: texts that the model stores.

        Raises:
          UserError: the model is larger than Protocol Buffers allow.
        """
        helper = self._onnx.helper
        output = self._name(self.full(logits, shape))
        self._nodes.append(helper.make_node("Identity", [output], [OUTPUT]))
        graph = helper.make_graph(
            self._nodes,
            "network",
            [self._info(INPUT, self.pixels.shape, self._dtype)],
            [self._info(OUTPUT, shape, "float32")],
            self._initializers,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        found = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="cnn_jax"
        )
        helper.set_model_props(found, dict(metadata))
        if (size := found.ByteSize()) > MAX_BYTES:
            raise errors.UserError(
                f"the ONNX model would have {size:,} bytes, more than the limit of the format, "
                f"{MAX_BYTES:,}; export with --format=jax, or a smaller network"
            )
        self._onnx.checker.check_model(found, full_check=True)
        content: bytes = found.SerializeToString()
        return content

    def _info(self, name: str, shape: Shape, dtype: str) -> Any:
        sizes = [size if isinstance(size, int) else "batch" for size in shape]
        return self._onnx.helper.make_tensor_value_info(name, self.kind(dtype), sizes)

    def _name(self, operand: Operand) -> str:
        """Returns the name of an operand; an array becomes an initializer."""
        if isinstance(operand, Value):
            return operand.name
        array = np.ascontiguousarray(operand).reshape(operand.shape)
        check_dtype(array.dtype)
        key = (str(array.dtype), array.tobytes() if array.size <= 64 else b"", array.shape)
        if array.size <= 64 and key in self._scalars:
            return self._scalars[key]
        name = f"constant_{len(self._initializers)}"
        self._initializers.append(self._onnx.numpy_helper.from_array(array, name))
        if array.size <= 64:
            self._scalars[key] = name
        return name

    def _sizes(self, shape: Shape) -> Operand:
        """Returns sizes as an int64 vector, computed from the input where they are symbolic."""
        if is_static(shape):
            return np.array(shape, np.int64)
        if self._batch is None:
            self._batch = self.add("Shape", [self.pixels], (1,), start=0, end=1)
        parts: list[Operand] = []
        for size in shape:
            if isinstance(size, int):
                parts.append(np.array([size], np.int64))
                continue
            factor = np.array([self._factor(size)], np.int64)
            parts.append(self.add("Mul", [self._batch, factor], (1,)))
        return self.add("Concat", parts, (len(shape),), axis=0)

    def _factor(self, size: Any) -> int:
        """Returns the factor of a symbolic size that is a multiple of the batch size.

        Raises:
          UserError: it is no multiple.
        """
        batch = self.pixels.shape[0]
        factor = size // batch
        if not isinstance(factor, int) or factor * batch != size:
            raise errors.UserError(
                f"the network has an array of the size {size}, which is no multiple of the batch "
                "size; ONNX export supports multiples only: export with --format=jax"
            )
        return factor


def shape_of(variable: Any) -> Shape:
    """Returns the shape of a variable of a jaxpr."""
    return tuple(variable.aval.shape)


def is_static(shape: Shape) -> bool:
    """Returns True if no size depends on the batch size."""
    return all(isinstance(size, int) for size in shape)


def wide(dtype: Any) -> np.dtype[Any]:
    """Returns the dtype in which the model computes a dtype: float32 for float16 and bfloat16."""
    return np.dtype(np.float32) if str(np.dtype(dtype)) in _NARROW else np.dtype(dtype)


def widened(array: np.ndarray) -> np.ndarray:
    """Returns an array in the dtype in which the model computes it."""
    return array.astype(wide(array.dtype), copy=False)


def check_dtype(dtype: Any) -> None:
    """Checks the dtype of a tensor.

    Raises:
      UserError: ONNX export does not support it.
    """
    if str(wide(dtype)) not in _DTYPES:
        raise errors.UserError(
            f"the network computes in {dtype}, and ONNX export supports {', '.join(_DTYPES)}; "
            "export with --format=jax, or a network with model.dtype=float32"
        )
