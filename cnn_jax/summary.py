"""Print what a network consists of: its layers with their sizes and costs.

  python -m cnn_jax.summary NAME [OPTION=VALUE...] [--image_size=227] [--channels=3]
      [--num_classes=1000] [--csv=FILE]

lists every layer that has parameters, in the order in which a prediction uses them, with the shape
of its output, its parameters and its multiply-adds for one image: H'W'C'CK^2/g for a convolution,
inputs times outputs for a dense layer, 0 for normalisation. Poolings and activations have neither.
Nothing is computed, so the largest network takes seconds.
"""

import argparse
import ast
import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.runtime import console

UNUSED = "not used"  # the kind of a row for parameters that the pass does not reach


class Row(NamedTuple):
    """One call of a layer.

    Attributes:
      path: names of the modules around the layer and its own, with dots between.
      kind: name of its class, or `UNUSED`.
      output_shape: without the batch.
      parameters: trainable ones that the layer itself has; 0 when it is called again.
      statistics: running ones of normalisation, which are not trained; 0 when it is called again.
      multiply_adds: for one image.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    statistics: int
    multiply_adds: int


def rows(model: nn.Module, input_shape: tuple[int, ...], **arguments: Any) -> list[Row]:
    """The layers of a network with parameters, in order of execution, without computing anything.

    The parameters of all rows are those of the network: what this pass leaves out, such as
    auxiliary heads in a prediction, is at the end as `UNUSED`. A layer's `kernel` is taken to be
    applied once at each position of its output, as in convolutions and dense layers.

    Args:
      model: any Linen module that maps one array to another.
      input_shape: of the array, without the batch.
      **arguments: more for its `__call__`, such as `train=False`.

    >>> [layer] = rows(nn.Dense(10), (784,))
    >>> layer.parameters, layer.multiply_adds
    (7850, 7840)
    """
    batch = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **arguments), batch)
    counter = _Counter(variables)
    found: list[Row] = []

    def record(call: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        path, kind = context.module.path, type(context.module).__name__
        if context.method_name == "__call__" and counter.has(path):
            found.append(counter.row(path, kind, output.shape[1:]))
        return output

    def apply(given: Any, x: jax.Array) -> Any:
        return model.apply(given, x, rngs=jax.random.key(0), mutable=True, **arguments)

    with nn.intercept_methods(record):
        jax.eval_shape(apply, variables, batch)
    return found + counter.unused()


_Path = tuple[str, ...]


class _Counter:
    """Makes rows, and counts the variables of each layer once.

    Attributes:
      parameters: sizes of arrays, by the path of the module that has them and by name.
      statistics: the same of the running ones.
      called: paths that have a row.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.parameters = _by_owner(variables.get("params", {}))
        self.statistics = _by_owner(variables.get("batch_stats", {}))
        self.called: set[_Path] = set()

    def row(self, path: _Path, kind: str, shape: tuple[int, ...]) -> Row:
        own, running = self.parameters.get(path, {}), self.statistics.get(path, {})
        first = path not in self.called
        self.called.add(path)
        return Row(
            path=".".join(path),
            kind=kind,
            output_shape=shape,
            parameters=sum(own.values()) if first else 0,
            statistics=sum(running.values()) if first else 0,
            multiply_adds=math.prod(shape[:-1]) * own.get("kernel", 0) if shape else 0,
        )

    def has(self, path: _Path) -> bool:
        return path in self.parameters or path in self.statistics

    def unused(self) -> list[Row]:
        paths = self.parameters | self.statistics
        return [self.row(path, UNUSED, ()) for path in paths if path not in self.called]


def _by_owner(tree: Mapping[str, Any]) -> dict[_Path, dict[str, int]]:
    owners: dict[_Path, dict[str, int]] = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        owners.setdefault(path[:-1], {})[path[-1]] = leaf.size
    return owners


def table(layers: Sequence[Row]) -> str:
    """The rows as aligned columns, with totals."""
    parameters = sum(row.parameters for row in layers)
    multiply_adds = sum(row.multiply_adds for row in layers)
    total = Row("total", "", (), parameters, 0, multiply_adds)
    cells = [
        ("layer", "type", "output", "parameters", "multiply-adds"),
        *(
            (path, kind, _by_x(shape), f"{own:,}", f"{cost:,}")
            for path, kind, shape, own, _, cost in (*layers, total)
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = ("<", "<", "<", ">", ">")
    lines = [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(line, aligned, widths, strict=True)
        )
        for line in cells
    ]
    return "\n".join([*lines, "", *_totals(layers, parameters, multiply_adds)])


def _totals(layers: Sequence[Row], parameters: int, multiply_adds: int) -> Iterator[str]:
    unused = sum(row.parameters for row in layers if row.kind == UNUSED)
    statistics = sum(row.statistics for row in layers)
    yield f"parameters: {parameters:,} = {parameters / 1e6:,.3f} M"
    if unused:
        yield f"  of them not used in a prediction: {unused:,}"
    if statistics:
        yield f"running statistics, which are not trained: {statistics:,}"
    mega, giga = multiply_adds / 1e6, multiply_adds / 1e9
    yield f"multiply-adds for one image: {multiply_adds:,} = {mega:,.3f} M = {giga:,.3f} G"


def _by_x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _overrides(name: str, settings: Sequence[str]) -> dict[str, Any]:
    known = models.options(name)
    values: dict[str, Any] = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals:
            raise errors.UserError(f"{setting!r} is not of the form OPTION=VALUE")
        if option not in known:
            raise errors.unknown(f"option of model {name!r}:", option, known)
        try:
            values[option] = ast.literal_eval(text)
        except (SyntaxError, ValueError):  # a word, such as tanh
            values[option] = text
    return values


def _write_csv(file_path: Path, layers: Iterable[Row]) -> None:
    try:
        with file_path.open("x", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            for path, kind, shape, *counts in layers:
                writer.writerow((path, kind, _by_x(shape), *counts))
    except OSError as error:  # also if it exists: it is not overwritten
        raise errors.UserError(f"{file_path} cannot be written: {error.strerror}") from error


def usual_classes(name: str) -> int:
    """ImageNet's number of classes, or ten for networks of images of up to 32x32 pixels."""
    return 1000 if models.input_shape(name)[0] > 32 else 10


def main() -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(models.names())}")
    parser.add_argument(
        "option", nargs="*", metavar="OPTION=VALUE", help="of the network, such as activation=tanh"
    )
    parser.add_argument("--image_size", type=int, help="height and width; default: as published")
    parser.add_argument("--channels", type=int, help="of the images; default: as published")
    parser.add_argument(
        "--num_classes", type=int, help="default: 1000, or 10 where images are up to 32x32"
    )
    parser.add_argument("--csv", type=Path, help="write the rows to this new file as well")
    args = parser.parse_intermixed_args()
    height, width, channels = models.input_shape(args.name)
    num_classes = args.num_classes
    if num_classes is None:
        num_classes = usual_classes(args.name)
    if args.image_size is not None:
        height = width = args.image_size
    if args.channels is not None:
        channels = args.channels
    if min(height, channels) < 1:
        raise errors.UserError(
            f"--image_size and --channels must be at least 1, got {height} and {channels}"
        )
    overrides = _overrides(args.name, args.option)
    model = models.create(args.name, num_classes=num_classes, **overrides)
    shape = (height, width, channels)
    layers = rows(model, shape, train=False)
    print(f"{args.name} for images of {_by_x(shape)} and {num_classes} classes\n")
    print(table(layers))
    if args.csv is not None:
        _write_csv(args.csv, layers)
    return 0


if __name__ == "__main__":
    console.exit_with(main)
