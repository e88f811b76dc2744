"""Print the most probable classes of image files.

  python -m cnn_jax.predict --workdir=DIR [--checkpoint=best|last|STEP] IMAGE...
  python -m cnn_jax.predict --model=resnet50.a1_in1k IMAGE...
  python -m cnn_jax.predict --weights=FILE [--model=resnet50] IMAGE...

reads PNG, JPEG and other files of any size and mode. The first form uses a network trained here and
preprocesses each image like the images that the network was evaluated on. The others use published
weights, timm's from the Hugging Face Hub or those in a file, with the preprocessing that belongs to
the weights. A file that cannot be read is reported by name, the other files are still processed,
and the exit status is 1.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_jax import errors
from cnn_jax.runtime import console, flags

if TYPE_CHECKING:
    from cnn_jax.predictor import Predictor


def main() -> int:
    """Runs the command line."""
    args = _parser().parse_args()
    if args.top_k < 1:
        raise errors.UserError(f"--top_k must be at least 1, got {args.top_k}")
    from cnn_jax.runtime import malloc

    malloc.keep_freed_memory()
    predictor = _predictor(args)
    return int(sum(not _print(predictor, path, args.top_k) for path in args.image) > 0)


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("predict", __doc__)
    flags.add_run(parser, required=False)
    parser.add_argument(
        "--model", help="timm's checkpoint NETWORK.TAG on the Hub, or the network of --weights"
    )
    parser.add_argument("--weights", type=Path, help="a .safetensors, .pth or .pt file")
    parser.add_argument("--top_k", default=5, type=int, help="classes to print (default: 5)")
    parser.add_argument("image", nargs="+", type=Path, help="an image file")
    return parser


def _predictor(args: argparse.Namespace) -> "Predictor":
    published = args.model is not None or args.weights is not None
    if published == (args.workdir is not None):
        raise errors.UserError("give either --workdir, or --model, --weights or both")
    if published and args.checkpoint is not None:
        raise errors.UserError("--checkpoint is for --workdir, not for published weights")
    # Imported here, so that --help and mistakes in the flags answer at once.
    from cnn_jax import predictor
    from cnn_jax.runs import workdir
    from cnn_jax.runtime import compilation_cache

    if published or workdir.load_plan(args.workdir).compilation_cache:
        compilation_cache.use_cache()
    if args.workdir is not None:
        return predictor.load(args.workdir, args.checkpoint or "best")
    if args.weights is None:
        return predictor.load_published(args.model)
    return predictor.load_published(args.weights, args.model)


def _print(predictor: "Predictor", path: Path, top_k: int) -> bool:
    """Prints the classes of an image file. Returns False, after a message, if it is unreadable."""
    from cnn_jax.data import images

    try:
        picture = images.read_file(path, predictor.channels)
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(path)
    for name, probability in predictor.top(picture, top_k):
        print(f"  {probability:.4f}  {name}")
    return True


if __name__ == "__main__":
    console.exit_with(main)
