"""Export of a network to an ONNX model.

The network is traced by JAX with a symbolic batch size. Each primitive of the trace becomes a few
nodes. The project's own primitives are replaced by their definitions in terms of `jax.lax`.

- `graph.py`: the graph, its constants and the model
- `convert.py`: `convert`, from the trace to the nodes
- `pointwise.py`, `layout.py`, `products.py`: the rules of the primitives
- `refusals.py`: the error for what has no rule
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cnn_jax import errors
from cnn_jax.export.onnx.convert import convert
from cnn_jax.export.onnx.graph import Graph, shape_of, widened
from cnn_jax.export.traced import Traced, check_logits
from cnn_jax.runtime.jax_internals import ClosedJaxpr


def serialize(traced: Traced, description: str) -> bytes:
    """Returns the ONNX model of a network.

    Args:
      traced: the network with its preprocessing.
      description: JSON for the model's metadata.

    Raises:
      UserError: the onnx package is not installed, a primitive has no rule, a value has a dtype
        without support, there is not one row of logits for each image, the network cannot be
        traced for every batch size, or the model is too large.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    shape = (batch, *traced.shape)
    graph = Graph(shape, traced.dtype)
    leaves, structure = jax.tree.flatten(jax.device_get(dict(traced.variables)))

    def logits(leaves: list[jax.Array], pixels: jax.Array) -> jax.Array:
        return traced.call(jax.tree.unflatten(structure, leaves), pixels)

    closed = _traced(logits, leaves, jax.ShapeDtypeStruct(shape, traced.dtype))
    logits_shape = shape_of(closed.jaxpr.outvars[0])
    check_logits(logits_shape, batch)
    arrays = [widened(np.asarray(leaf)) for leaf in leaves]
    (found,) = convert(graph, closed, [*arrays, graph.pixels])
    return graph.model(found, logits_shape, {"cnn_jax": description})


def _traced(function: Callable[..., Any], *operands: Any) -> ClosedJaxpr:
    """Returns the trace of a function.

    Raises:
      UserError: it cannot be traced with a symbolic batch size.
    """
    try:
        return jax.make_jaxpr(function)(*operands)
    except errors.UserError:
        raise
    except Exception as error:  # of any layer
        reason = errors.first_line(error)
        raise errors.UserError(
            f"the network cannot be traced for every batch size: {reason}; for the batch size, "
            "write images.shape[0] in the network, not len(images)"
        ) from error
