"""Export a trained network to a file that needs no cnn_jax.

  python -m cnn_jax.export --workdir=RUN --format=jax --out=network.jax
  python -m cnn_jax.export --weights=FILE [--model=resnet50] --format=onnx --out=network.onnx
  python -m cnn_jax.export --model=resnet50.a1_in1k --format=safetensors --out=FOLDER

jax is StableHLO, which jax.export.deserialize reads; onnx is a model for ONNX Runtime. Both take
pixels [batch, height, width, channel] of any batch size, which are resized already, normalise them
and return logits. OUT.json beside them has the input, the resizing and the class names.
safetensors is a folder for the Hugging Face Hub and timm: model.safetensors, config.json and a
model card. Existing files are not overwritten.
"""

import argparse
import re
import sys

from cnn_jax import errors, export
from cnn_jax.export import history, stablehlo, traced
from cnn_jax.predictor import from_flags
from cnn_jax.predictor.predicting import BATCH_SIZE
from cnn_jax.runtime import console, flags

_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def main() -> int:
    """Runs the command line."""
    args = _parser().parse_args()
    _check(args)
    network = from_flags.load(args)
    if args.format == "jax":
        platforms = args.platforms.split(",")
        export.to_jax(network, args.out, pixels=args.pixels, platforms=platforms)
        print(stablehlo.window())
    elif args.format == "onnx":
        export.to_onnx(network, args.out, pixels=args.pixels)
        if traced.computation(network) in ("bfloat16", "float16"):
            print(f"the run computes in {traced.computation(network)}, the model in float32")
    else:
        run = args.workdir and history.read(args.workdir, args.checkpoint, args.average)
        export.to_safetensors(network, args.out, license_name=args.license, history=run)
    for note in traced.notes(network):
        print(errors.printable(f"{args.out}: {note}"), file=sys.stderr)
    shape = " x ".join(map(str, network.input_shape))
    classes = f"{len(network.class_names):,} classes"
    print(errors.printable(f"{args.out}: {traced.name(network)}, input {shape}, {classes}"))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Checks the flags before anything is loaded.

    Raises:
      UserError: a flag is missing, has a value that is not allowed, or is for another format.
    """
    args.batch_size = BATCH_SIZE
    if args.format is None or args.out is None:
        raise errors.UserError(
            "--format and --out are needed, such as --format=onnx --out=network.onnx"
        )
    flags.check_network(args)
    if args.format == "safetensors" and args.pixels is not None:
        raise errors.UserError("--pixels is for the formats jax and onnx; leave it out")
    if args.format != "safetensors" and args.license is not None:
        raise errors.UserError("--license is for the format safetensors; leave it out")
    if args.format != "jax" and args.platforms is not None:
        raise errors.UserError("--platforms is for the format jax; leave it out")
    args.license = "other" if args.license is None else args.license
    if not _LICENSE.fullmatch(args.license):
        raise errors.UserError(
            f"--license must be a name of the Hugging Face Hub, such as apache-2.0 or other, got "
            f"{args.license!r}"
        )
    args.pixels = args.pixels or "uint8"
    args.platforms = args.platforms or ",".join(stablehlo.PLATFORMS)
    for platform in args.platforms.split(","):
        if platform not in stablehlo.PLATFORMS:
            raise errors.unknown("platform", platform, stablehlo.PLATFORMS)
    export.check_out(args.out, args.format)


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("export", __doc__)
    flags.add_network(parser)
    parser.add_argument("--format", choices=export.FORMATS, help="of the file")
    flags.add_out(parser, "the new file .jax or .onnx, or the new folder of safetensors")
    parser.add_argument(
        "--pixels",
        choices=traced.PIXELS,
        help="of jax and onnx: dtype of the input: uint8 from 0 to 255 (default), or float32 from "
        "0 to 1",
    )
    parser.add_argument(
        "--platforms", help="of jax: those that the file runs on (default: cpu,cuda,tpu)"
    )
    parser.add_argument(
        "--license",
        help="of safetensors: the license of the weights, as the Hugging Face Hub writes it "
        "(default: other)",
    )
    return parser


if __name__ == "__main__":
    console.exit_with(main)
