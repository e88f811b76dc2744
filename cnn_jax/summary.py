"""Prints the layers of a network with their output shapes, parameters and multiply-adds.

  python -m cnn_jax.summary NAME [OPTION=VALUE...] [--image_size=227] [--channels=3]
      [--num_classes=1000] [--csv=FILE] [--decay[=PATTERN]...]
  python -m cnn_jax.summary --list

NAME is a registered network, or module:attribute for one of your own, such as nets:Small; the
current directory and PYTHONPATH are searched. These need --image_size and --channels.

The table lists the layers with parameters in the order of a forward pass in inference. Costs are
for one image: H'W'C'CK^2/g multiply-adds for a convolution, inputs times outputs for a dense
layer, 0 for normalisation. Layers without parameters, such as pooling and activations, are not
listed. Only shapes are computed, which takes a few seconds for the largest network.

--decay also lists the parameters with weight decay and those without it: for the default of
`optim.decay`, or for the patterns given, such as --decay='^stage4_' --decay='fc/bias$'.

In Python: `summary.rows(model, input_shape, train=False)`; see `cnn_jax.models.costs`.
"""

import argparse
import ast
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cnn_jax import errors
from cnn_jax.runtime import console, flags, imports

if TYPE_CHECKING:
    from cnn_jax.models.costs import rows

__all__ = ["main", "rows"]


def __getattr__(name: str) -> Any:
    """Returns `rows`, which is imported at its first use: it needs JAX, and `--help` does not."""
    if name != "rows":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cnn_jax.models import costs

    return costs.rows


def main() -> int:
    """Runs the command with the arguments in `sys.argv` and returns the exit status."""
    args = _parse()
    # Imported after parsing: JAX and Flax take seconds to import, and --help needs neither.
    from cnn_jax import models
    from cnn_jax.models import costs

    if args.list:
        names = models.names()
        width = max(map(len, names))
        for name in names:
            print(f"{name:<{width}}  {costs.shape_text(models.input_shape(name))}")
        return 0
    is_own = imports.is_reference(args.name)
    published = None if is_own else models.input_shape(args.name)
    shape = _image_shape(args.name, published, args.image_size, args.channels)
    num_classes = args.num_classes
    if num_classes is None:
        num_classes = costs.default_num_classes(args.name)
    overrides = _overrides(args.option)
    models.check_options(args.name, overrides)
    model = models.create(args.name, num_classes=num_classes, **overrides)
    if is_own:
        models.check(model, shape)
    layers = costs.rows(model, shape, train=False)
    name = errors.printable(args.name)
    print(f"{name} for images of {costs.shape_text(shape)} and {num_classes} classes\n")
    print(errors.printable(costs.table(layers), keep_lines=True))
    if args.decay is not None:
        lines = _decay_lines(model, shape, tuple(filter(None, args.decay)))
        print(errors.printable("\n".join(["", *lines]), keep_lines=True))
    if args.csv is not None:
        costs.write_csv(layers, args.csv)
    return 0


def _parse() -> argparse.Namespace:
    """Returns the parsed arguments; exits with status 2 if they are not valid."""
    parser = flags.make_parser("summary", __doc__)
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="name of the network, or module:attribute; --list prints all names",
    )
    parser.add_argument(
        "option",
        nargs="*",
        metavar="OPTION=VALUE",
        help="option of the network, such as activation=tanh",
    )
    parser.add_argument(
        "--list", action="store_true", help="print all names with their published input size"
    )
    parser.add_argument(
        "--image_size", type=int, help="height and width in pixels; default: as published"
    )
    parser.add_argument(
        "--channels", type=int, help="channels of the images; default: as published"
    )
    parser.add_argument(
        "--num_classes",
        type=int,
        help="default: 1000, or 10 for images of up to 32x32 pixels and for networks of your own",
    )
    parser.add_argument(
        "--csv", action=flags.StorePath, help="also write the table to this new file"
    )
    parser.add_argument(
        "--decay",
        metavar="PATTERN",
        action="append",
        nargs="?",
        help="also list the parameters with weight decay: by the default of optim.decay, or by "
        "these patterns",
    )
    args = parser.parse_intermixed_args()
    if args.name is None and not args.list:
        order = "; write NAME before --decay" if args.decay else ""
        parser.error(f"NAME is missing{order}; --list prints all names")
    return args


def _decay_lines(model: Any, shape: tuple[int, int, int], decay: tuple[str, ...]) -> Iterator[str]:
    """Yields the lines of --decay: a summary, then each parameter with its shape.

    Args:
      model: the network.
      shape: height, width and channels of the images.
      decay: the patterns; empty for the default of `optim.decay`.

    Raises:
      UserError: a pattern matches no parameter.
    """
    import jax
    import jax.numpy as jnp

    from cnn_jax import optim
    from cnn_jax.models import costs
    from cnn_jax.runtime import patterns

    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    params = params.get("params", {})
    source = "" if decay else ", the default"
    decay = decay or optim.KERNELS
    mask = jax.tree.leaves(optim.decay_mask(params, decay))
    leaves = jax.tree.leaves(params)
    values = sum(leaf.size for leaf, decays in zip(leaves, mask, strict=True) if decays)
    total = sum(leaf.size for leaf in leaves)
    yield f"weight decay by optim.decay = {decay!r}{source}:"
    yield f"{sum(mask)} of {len(mask)} parameters, {values:,} of {total:,} values"
    rows = sorted(
        zip(mask, patterns.paths(params), leaves, strict=True), key=lambda row: not row[0]
    )
    width = max(len(path) for _, path, _ in rows)
    for decays, path, leaf in rows:
        yield f"{'decay' if decays else '-':<5}  {path:<{width}}  {costs.shape_text(leaf.shape)}"


def _image_shape(
    name: str,
    published: tuple[int, int, int] | None,
    image_size: int | None,
    channels: int | None,
) -> tuple[int, int, int]:
    """Returns the published input shape with the size and channels of the command line."""
    if published is None and (image_size is None or channels is None):
        raise errors.UserError(
            f"model {name!r} has no published input shape; give --image_size and --channels, such "
            "as --image_size=28 --channels=1"
        )
    height, width, depth = published or (0, 0, 0)
    if image_size is not None:
        height = width = image_size
    if channels is not None:
        depth = channels
    if min(height, depth) < 1:
        raise errors.UserError(
            f"--image_size and --channels must be at least 1, got {height} and {depth}"
        )
    return height, width, depth


def _overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Returns the keyword arguments that OPTION=VALUE settings give to a network."""
    values: dict[str, Any] = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals:
            raise errors.UserError(f"{setting!r} is not of the form OPTION=VALUE")
        try:
            values[option] = ast.literal_eval(text)
        except (SyntaxError, ValueError):  # a plain word, such as tanh
            values[option] = text
    return values


if __name__ == "__main__":
    console.exit_with(main)
