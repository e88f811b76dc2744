"""Print the most probable classes of image files, or write those of whole folders into a table.

  python -m cnn_jax.predict --workdir=DIR [--checkpoint=best|last|STEP] IMAGE...
  python -m cnn_jax.predict --model=resnet50.a1_in1k IMAGE...
  python -m cnn_jax.predict --weights=FILE [--model=resnet50] IMAGE...
  python -m cnn_jax.predict --workdir=DIR FOLDER --out=predictions.csv

reads PNG, JPEG and other files of any size and mode, and all image files below a folder. The first
form uses a network trained here and preprocesses each image like the images that the network was
evaluated on. The next two use published weights, timm's from the Hugging Face Hub or those in a
file, with the preprocessing that belongs to the weights. --out writes a new .csv or .json file
instead of printing. A file that cannot be read is reported by name, the other files are still
processed, and the exit status is 1.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cnn_jax import errors
from cnn_jax.runtime import console, flags

if TYPE_CHECKING:
    from cnn_jax.predictor.folders import Row


def main() -> int:
    """Runs the command line."""
    args = _parser().parse_args()
    if args.top_k < 1:
        raise errors.UserError(f"--top_k must be at least 1, got {args.top_k}")
    flags.check_network(args)
    # Imported here, so that --help and mistakes in the flags answer at once.
    from cnn_jax.predictor import folders, from_flags

    if args.out is not None:
        folders.check_out(args.out)
    files = folders.find(args.image)
    rows = folders.classify(from_flags.load(args), files, args.top_k)
    if args.out is None:
        return int(sum(not _print(row) for row in rows) > 0)
    found = _with_progress(rows, len(files))
    folders.write(args.out, found)
    return int(any(row.error for row in found))


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("predict", __doc__)
    flags.add_network(parser)
    parser.add_argument("--top_k", default=5, type=int, help="classes to print (default: 5)")
    flags.add_batch_size(parser, 32, "images that are computed together (default: 32)")
    flags.add_out(parser, "a new .csv or .json file for the predictions, in place of printing")
    parser.add_argument(
        "image", nargs="+", action=flags.StorePath, help="an image file, or a folder of them"
    )
    return parser


def _print(row: "Row") -> bool:
    """Prints the classes of an image file. Returns False, after a message, if it is unreadable."""
    if row.error:
        print(f"error: {errors.printable(row.error)}", file=sys.stderr)
        return False
    print(errors.printable(row.name))
    for name, probability in row.classes:
        print(f"  {probability:.4f}  {errors.printable(name)}")
    return True


def _with_progress(rows: Iterator["Row"], total: int) -> list["Row"]:
    """Returns the rows; shows their number and the unreadable files while they are computed."""
    found = []
    with console.Progress(total, unit="image") as progress:
        for row in rows:
            if row.error:
                progress.message(f"error: {row.error}")
            found.append(row)
            progress.advance(1)
    return found


if __name__ == "__main__":
    console.exit_with(main)
