"""Write the features of all pictures below a folder to a file, for classifiers of other libraries.

  python -m cnn_jax.features --weights=FILE [--model=resnet50] DIR --out=features.npz
  python -m cnn_jax.features --model=resnet50.a1_in1k DIR --out=features.npz
  python -m cnn_jax.features --workdir=RUN [--checkpoint=best|last|STEP] DIR --out=features.npz

By default, the features are the embedding of the network: the pooled input of its head. --stage
names another endpoint, and --no-pool keeps its height and width. Each picture is preprocessed as
`cnn_jax.predict` does it.

DIR has one folder of pictures for each class, below train, validation and test (--split names one)
or directly; or it is a flat folder, whose pictures have no labels. The file has the arrays
`features`, `names` (paths below DIR), `labels` and `class_names`. An existing file is not
overwritten. A picture that cannot be read is reported by name and left out, and the exit status
is 1.
"""

import argparse
from collections.abc import Sequence

from cnn_jax import errors, features
from cnn_jax.features import Features
from cnn_jax.predictor import from_flags
from cnn_jax.runtime import console, flags


def main() -> int:
    """Runs the command line."""
    args = _parser().parse_args()
    if args.out is None:
        raise errors.UserError("--out is missing; give the new file, such as --out=features.npz")
    flags.check_network(args)
    features.check_out(args.out)
    pictures = features.in_folder(args.directory, args.split, labels=args.labels)
    network = from_flags.load(args)
    with console.Progress(len(pictures), unit="picture") as progress:

        def tell(count: int, problems: Sequence[str]) -> None:
            for problem in problems:
                progress.message(f"error: {problem}")
            progress.advance(count)

        found = features.compute(network, pictures, stage=args.stage, pool=args.pool, tell=tell)
    features.write(args.out, found)
    print(errors.printable(f"{args.out}: {_summary(found)}"))
    return int(bool(found.unreadable))


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("features", __doc__)
    flags.add_network(parser)
    parser.add_argument(
        "--stage", help="an endpoint of the network, such as stage3; default: its embedding"
    )
    parser.add_argument(
        "--pool",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the mean over height and width of --stage (default), or feature maps",
    )
    parser.add_argument(
        "--split",
        default="",
        help="of a folder with several: train, validation or test, or a slice of one, such as "
        "'train[:50%%]'",
    )
    parser.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the labels of class folders (default), or all pictures at any depth without labels",
    )
    flags.add_batch_size(parser, 32, "pictures that are computed together (default: 32)")
    flags.add_out(parser, "the new .npz file")
    parser.add_argument(
        "directory", metavar="DIR", action=flags.StorePath, help="the folder of pictures"
    )
    return parser


def _summary(found: Features) -> str:
    """Returns the number of pictures, of features and of classes, in words."""
    count, *shape = found.features.shape
    classes = "no labels" if found.class_names is None else f"{len(found.class_names):,} classes"
    return f"{count:,} pictures, {' x '.join(map(str, shape))} features each, {classes}"


if __name__ == "__main__":
    console.exit_with(main)
