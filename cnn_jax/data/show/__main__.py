"""Draw what training sees: stored images, and each as several training steps see it.

  python -m cnn_jax.data.show --config=FILE --out=GRID.png [--examples=N] [--steps=N]
      [--config.KEY=VALUE ...]

Each row has a stored image with its class and its versions in the first steps of training: cropped,
augmented and mixed. Below a mixed image stand the shares of the classes in its target. The rows
form one batch, so they are mixed with each other. An existing GRID.png is replaced. A config with
`init.weights` has the preprocessing of these weights, as in training.
"""

import argparse
import os
from pathlib import Path

from cnn_jax import config_files, errors, plan
from cnn_jax.runtime import console, files, flags

_FLAGS = ("--help", "--config", "--out", "--examples", "--steps")


def main() -> int:
    """Runs the command line."""
    args, others = _parser().parse_known_args()
    _check_out(args.out)
    overrides = config_files.parse_overrides(others, _FLAGS)
    settings = config_files.override(plan.read(config_files.load(args.config)), overrides)
    # Imported here, so that --help and mistakes in a config are answered at once.
    from cnn_jax.data import show
    from cnn_jax.runtime import compilation_cache, sharding

    sharding.check_devices()
    if settings.compilation_cache:
        compilation_cache.use_cache()
    show.check(settings, args.examples, args.steps)
    if settings.init.weights:
        from cnn_jax.train import start

        settings, _ = start.find(settings, progress=True)
    picture = show.draw(show.rows(settings, args.examples, args.steps))
    with files.replacing(args.out, ".png") as temporary:
        picture.save(temporary)
    print(f"{errors.printable(str(args.out))}: {picture.width} x {picture.height} pixels")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("data.show", __doc__)
    parser.allow_abbrev = False
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="the config file, or the name of a config that comes with cnn_jax",
    )
    parser.add_argument(
        "--out", required=True, action=flags.StorePath, help="the picture, a .png file"
    )
    parser.add_argument("--examples", type=int, default=8, metavar="N", help="rows; default: 8")
    parser.add_argument(
        "--steps",
        type=int,
        default=6,
        metavar="N",
        help="versions of each image, those of the first steps; default: 6",
    )
    return parser


def _check_out(out: Path) -> None:
    if out.suffix != ".png":
        raise errors.UserError(f"--out must end in .png, got {out}")
    if not os.access(out.absolute().parent, os.W_OK | os.X_OK):
        raise errors.UserError(
            f"the folder of --out {out} does not exist or cannot be written; choose another --out"
        )


if __name__ == "__main__":
    console.exit_with(main)
