"""Pack a labelled image set into a few large files, in which any image can be read quickly.

  python -m cnn_jax.data.pack DIR OUT --shards=N [--size=256]

DIR is an image folder, another data set that data.source 'auto' finds, or the directory of
ImageNet's official archives: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and
ILSVRC2012_devkit_t12.tar.gz, which are not unpacked. Examples keep their order, so a run on OUT
equals a run on DIR. To continue an interrupted packing, repeat the command.

  python -m cnn_jax.data.pack --verify=OUT

reads all files again and compares their checksums.
"""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_jax import errors
from cnn_jax.runtime import console, flags

if TYPE_CHECKING:
    from cnn_jax.data.sources.shards import Manifest, StoredSplit


def main() -> int:
    """Runs the command line."""
    args = _parser().parse_args()
    given = {"DIR": args.directory, "OUT": args.out, "--shards": args.shards}
    if args.verify is not None:
        _refuse_with_verify(given, args.size)
        print(_verify(args.verify))
        return 0
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise errors.UserError(
            f"missing: {', '.join(missing)}; write python -m cnn_jax.data.pack DIR OUT --shards=N, "
            "such as --shards=16"
        )
    print(_pack(args.directory, args.out, args.shards, args.size))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("data.pack", __doc__)
    parser.add_argument(
        "directory", nargs="?", action=flags.StorePath, metavar="DIR", help="the image set"
    )
    parser.add_argument(
        "out",
        nargs="?",
        action=flags.StorePath,
        metavar="OUT",
        help="directory of the shards, new or empty",
    )
    parser.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="files for each split, such as one for every 10,000 images; fewer where a split has "
        "fewer images",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=0,
        metavar="PIXELS",
        help="scale larger images down to this shorter side, by bicubic interpolation, and encode "
        "them again as JPEG of quality 95 (PNGs as PNG); 0: keep all images (default)",
    )
    parser.add_argument(
        "--verify",
        action=flags.StorePath,
        metavar="OUT",
        help="compare finished shards with their checksums",
    )
    return parser


def _refuse_with_verify(given: dict[str, object], size: int) -> None:
    others = [name for name, value in given.items() if value is not None]
    others += ["--size"] if size else []
    if others:
        raise errors.UserError(
            f"--verify=OUT reads finished shards and takes no {', '.join(others)}; leave that away"
        )


def _pack(directory: Path, out: Path, shards: int, size: int) -> str:
    """Packs the images of a directory and returns the report."""
    # Imported here, so that --help answers at once.
    from cnn_jax.data.pack import inputs, writer

    if out.resolve().is_relative_to(directory.resolve()):
        raise errors.UserError(
            f"OUT {out} is inside DIR {directory}, so its files would become part of the image "
            "set; choose a directory outside DIR"
        )
    packed = writer.pack(inputs.open_input(directory), out, shards=shards, size=size)
    state = "complete before, nothing written; --verify compares checksums"
    rows = _rows(packed.manifest)
    rows["written"] = f"{out} ({state})" if packed.was_complete else str(out)
    words = ("--config.data.source=shards", f"--config.data.directory={out}")
    rows["train with"] = shlex.join(words)
    return console.block(rows)


def _verify(out: Path) -> str:
    """Compares checksums and returns the report."""
    from cnn_jax.data.pack import verification

    manifest = verification.verify(out)
    return console.block({**_rows(manifest), "checksums": f"all {len(manifest.files)} files equal"})


def _rows(manifest: "Manifest") -> dict[str, str]:
    rows = {name: _describe(split, manifest.max_shards) for name, split in manifest.splits.items()}
    return {"classes": f"{len(manifest.class_names):,}", **rows}


def _describe(split: "StoredSplit", max_shards: int) -> str:
    count, megabytes = len(split.shards), sum(file.bytes for file in split.shards) / 1e6
    text = f"{split.labels.records:,} images in {count:,} shards, {megabytes:,.1f} MB"
    return f"{text}; one image each, fewer than --shards" if count < max_shards else text


if __name__ == "__main__":
    console.exit_with(main)
