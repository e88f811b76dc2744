r"""How fast this machine runs the parts of the package.

ops: each convolution and pooling of `cnn_jax.ops`, forward and with either gradient, against
plain XLA and, if it is installed, torch in the better of its two memory formats:

    python -m cnn_jax.benchmark ops --against=torch

models: training steps and predictions of whole networks, likewise:

    python -m cnn_jax.benchmark models --models=resnet50,vgg11@8 --against=torch,xla

All contenders of a line take turns in one process; a figure is the median of the rounds, a ratio
the quotient of two medians. In the table of ops `ours/...` are times, above 1 ours is slower; in
that of models `times ...` are speeds, above 1 ours is faster.
"""

import argparse
import itertools
from pathlib import Path

from cnn_jax import errors
from cnn_jax.benchmark import compare_models, compare_ops, models, ops
from cnn_jax.runtime import console, malloc

_MODELS_HELP = """Time training steps (SGD with momentum) and predictions of whole networks.

compile s and cached s: tracing and compiling, from nothing and with the compilation cache. memory:
arguments, results and temporary memory of a step. GFLOP/s: of convolutions and dense layers by the
textbook formulas, in training three times those of a prediction; of matmul: the share of the rate
of a 2048x2048 matrix product in the same rounds. Torch's bfloat16 is its autocast."""


def main() -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m cnn_jax.benchmark", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_ops(commands.add_parser("ops", help="the operations of cnn_jax.ops"))
    command = commands.add_parser("models", help="whole networks", description=_MODELS_HELP)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_models(command)
    args = parser.parse_args()
    if args.rounds < 1:
        raise errors.UserError(f"--rounds must be at least 1, got {args.rounds}")
    malloc.keep()
    if args.command == "ops":
        compare_ops.run(args.cases, args.rounds, args.against == "torch", args.csv)
    else:
        cases = _cases(args)
        compare_models.run(cases, args.rounds, args.against, args.csv, args.plot, args.profile)
    return 0


def _add_ops(command: argparse.ArgumentParser) -> None:
    command.add_argument("--against", choices=["torch"], help="compare with torch too")
    command.add_argument(
        "--cases",
        nargs="+",
        default=list(ops.CASES),
        metavar="CASE",
        help=f"default: all of {', '.join(map(repr, ops.CASES))}",
    )
    command.add_argument("--rounds", type=int, default=7, help="default: 7")
    command.add_argument("--csv", type=Path, help="write the table to this new file as well")


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--models",
        type=_words,
        required=True,
        metavar="NAME[@BATCH],...",
        help="the networks, and batches that are not --batch",
    )
    command.add_argument("--batch", type=int, default=16, help="images in a step; default: 16")
    command.add_argument(
        "--mode", type=_words, default=["train", "infer"], help="default: train,infer"
    )
    command.add_argument(
        "--dtype", type=_words, default=["float32"], help="default: float32; also bfloat16"
    )
    command.add_argument("--image_size", type=int, default=0, help="default: as published")
    command.add_argument("--against", type=_words, default=[], help="torch, xla or torch,xla")
    command.add_argument("--rounds", type=int, default=5, help="default: 5")
    command.add_argument("--csv", type=Path, help="write the table to this new file as well")
    command.add_argument("--plot", type=Path, help="draw the speeds, a new PNG file")
    command.add_argument(
        "--profile",
        type=Path,
        help="trace some steps of ours in this new directory, and print where the time goes",
    )


def _words(text: str) -> list[str]:
    return text.split(",")


def _cases(args: argparse.Namespace) -> list[models.Case]:
    cases = []
    for word, mode, dtype in itertools.product(args.models, args.mode, args.dtype):
        name, at, batch = word.partition("@")
        if at and not batch.isdecimal():
            raise errors.UserError(f"--models: {batch!r} of {word!r} is not a number of images")
        size = int(batch) if at else args.batch
        cases.append(models.Case(name, mode, dtype, size, args.image_size))
    return cases


if __name__ == "__main__":
    console.exit_with(main)
