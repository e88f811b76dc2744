"""Costs of a network, layer by layer: output shapes, parameters and multiply-adds.

Costs are computed from shapes alone, which takes a few seconds for the largest network.

A layer costs the multiply-adds of its convolutions and matrix products: H'W'C'CK^2/g for a
convolution, inputs times outputs for a dense layer, 2N^2C for the attention of N tokens, and 0 for
normalisation. Element-wise operations are not counted.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.models import products
from cnn_jax.runtime import imports

UNUSED = "unused"  # `Row.kind` for parameters that the forward pass does not use


class Row(NamedTuple):
    """Cost of one call of a layer.

    Attributes:
      path: module names from the network down to the layer, joined by dots.
      kind: class name of the layer, or `UNUSED`.
      output_shape: shape of the output without the batch axis; `()` for `UNUSED`.
      parameters: number of trainable values that belong to the layer itself. Only the first call
        of a layer counts them; later calls have 0.
      statistics: number of running statistics, which are not trained. Counted like `parameters`.
      multiply_adds: multiply-adds for one image.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    statistics: int
    multiply_adds: int


def rows(model: nn.Module, input_shape: tuple[int, ...], **arguments: Any) -> list[Row]:
    """Returns the costs of all layers with parameters or products, in order of execution.

    The network is traced: no array is allocated. The sum of `parameters` over all rows is the size
    of the network. Layers that this pass does not call, such as auxiliary heads in inference, are
    the last rows, with kind `UNUSED`.

    Args:
      model: a Linen module that maps one array to another, or to a mapping with arrays.
      input_shape: shape of the input without the batch axis.
      **arguments: further arguments of the module's `__call__`, such as `train=False`.

    Returns:
      One row per call of a layer, then one row per unused layer.

    >>> [layer] = rows(nn.Dense(10), (784,))
    >>> layer.parameters, layer.multiply_adds
    (7850, 7840)
    """
    batch = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **arguments), batch)
    counter, parts = _Counter(variables), products.Parts()
    calls: list[_Call] = []

    def record(call: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        with parts.part() as number:
            output = call(*args, **kwargs)
        path, kind = context.module.path, type(context.module).__name__
        calls.append(_Call(number, path, kind, _shape(output)))
        return output

    def apply(given: Any, x: jax.Array) -> Any:
        return model.apply(given, x, rngs=jax.random.key(0), mutable=True, **arguments)

    with nn.intercept_methods(record):
        jaxpr = jax.make_jaxpr(apply)(variables, batch)
    weights = {call.number: counter.kernel(call.path) for call in calls}
    costs = parts.multiply_adds(jaxpr, weights)
    found = [
        counter.row(call, costs[call.number])
        for call in calls
        if counter.has(call.path) or costs[call.number]
    ]
    return found + counter.unused()


def _shape(output: Any) -> tuple[int, ...]:
    """Returns the shape of a layer's output without the batch axis; the logits' in a mapping."""
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    leaves = jax.tree.leaves(output)
    return tuple(jnp.shape(leaves[0])[1:]) if leaves else ()


_Path = tuple[str, ...]


class _Call(NamedTuple):
    """Call of a module.

    Attributes:
      number: number of the call in `products.Parts`.
      path: path of the module.
      kind: class name of the module.
      output_shape: see `Row`.
    """

    number: int
    path: _Path
    kind: str
    output_shape: tuple[int, ...]


class _Counter:
    """Builder of rows that counts the variables of each layer only once.

    Attributes:
      parameters: array sizes in the `params` collection, by module path and array name.
      statistics: array sizes in the `batch_stats` collection, by module path and array name.
      called: module paths that already have a row.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.parameters = _sizes(variables.get("params", {}))
        self.statistics = _sizes(variables.get("batch_stats", {}))
        self.called: set[_Path] = set()

    def row(self, call: _Call, multiply_adds: int) -> Row:
        """Returns the row of one call and marks the layer as called."""
        parameters, statistics = (
            0 if call.path in self.called else sum(sizes.get(call.path, {}).values())
            for sizes in (self.parameters, self.statistics)
        )
        self.called.add(call.path)
        path = ".".join(call.path)
        return Row(path, call.kind, call.output_shape, parameters, statistics, multiply_adds)

    def kernel(self, path: _Path) -> int:
        """Returns the size of the array `kernel` of the module at `path`; 0 if it has none."""
        return self.parameters.get(path, {}).get("kernel", 0)

    def has(self, path: _Path) -> bool:
        """Returns True if the module at `path` itself holds variables."""
        return path in self.parameters or path in self.statistics

    def unused(self) -> list[Row]:
        """Returns a row for each module whose variables no call has used."""
        paths = self.parameters | self.statistics
        return [
            self.row(_Call(-1, path, UNUSED, ()), 0) for path in paths if path not in self.called
        ]


def _sizes(tree: Mapping[str, Any]) -> dict[_Path, dict[str, int]]:
    """Returns the array sizes of a variable collection, by module path and array name."""
    sizes: dict[_Path, dict[str, int]] = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        sizes.setdefault(path[:-1], {})[path[-1]] = leaf.size
    return sizes


def table(layers: Sequence[Row]) -> str:
    """Returns the rows as text in aligned columns, followed by the totals."""
    parameters = sum(row.parameters for row in layers)
    multiply_adds = sum(row.multiply_adds for row in layers)
    total = Row("total", "", (), parameters, 0, multiply_adds)
    cells = [
        ("layer", "type", "output", "parameters", "multiply-adds"),
        *(
            (path, kind, shape_text(shape), f"{count:,}", f"{cost:,}")
            for path, kind, shape, count, _, cost in (*layers, total)
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    alignments = ("<", "<", "<", ">", ">")
    lines = [
        "  ".join(
            f"{cell:{alignment}{width}}"
            for cell, alignment, width in zip(line, alignments, widths, strict=True)
        )
        for line in cells
    ]
    return "\n".join([*lines, "", *_totals(layers, parameters, multiply_adds)])


def _totals(layers: Sequence[Row], parameters: int, multiply_adds: int) -> Iterator[str]:
    """Yields the lines below the table."""
    unused = sum(row.parameters for row in layers if row.kind == UNUSED)
    statistics = sum(row.statistics for row in layers)
    yield f"parameters: {parameters:,} = {parameters / 1e6:,.3f} M"
    if unused:
        yield f"  of these, unused in inference: {unused:,}"
    if statistics:
        yield f"running statistics (not trained): {statistics:,}"
    mega, giga = multiply_adds / 1e6, multiply_adds / 1e9
    yield f"multiply-adds per image: {multiply_adds:,} = {mega:,.3f} M = {giga:,.3f} G"


def write_csv(layers: Iterable[Row], path: Path) -> None:
    """Writes the rows to a new CSV file, with the fields of `Row` as columns.

    Raises:
      errors.UserError: the file exists or cannot be written.
    """
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            for name, kind, shape, *counts in layers:
                writer.writerow((name, kind, shape_text(shape), *counts))
    except FileExistsError as error:
        raise errors.UserError(f"{path} already exists; choose a new file") from error
    except OSError as error:
        raise errors.UserError(f"{path} cannot be written: {error.strerror}") from error


def shape_text(shape: Sequence[int]) -> str:
    """Returns a shape as text.

    >>> shape_text((224, 224, 3))
    '224x224x3'
    """
    return "x".join(map(str, shape))


def default_num_classes(name: str) -> int:
    """Returns 1000, as in ImageNet, or 10 for networks of images of up to 32x32 pixels.

    It is 10 for a network 'module:attribute' too, whose size is not known.

    Raises:
      errors.UserError: `name` is not a registered network.
    """
    if imports.is_reference(name):
        return 10
    return 1000 if models.input_shape(name)[0] > 32 else 10
