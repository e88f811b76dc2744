"""Look into a network: one picture for each job.

  python -m cnn_jax.inspect cam --weights=FILE [--model=resnet50] IMAGE... --out=cam.png
  python -m cnn_jax.inspect norms --workdir=RUN IMAGE... --out=norms.png
  python -m cnn_jax.inspect field --model=resnet18 --stage=stage2 --out=field.png
  python -m cnn_jax.inspect rates --config=FILE [--config.KEY=VALUE ...] --out=rates.png

The network is a run's (--workdir), published weights (--weights, --model=NETWORK.TAG), or a network
with initial parameters (--model=NETWORK). rates and curve train new parameters with the config of
--config or --workdir. IMAGE is preprocessed as by `cnn_jax.predict`.

  filters    kernels of the first layer
  maps       feature maps of --stage for one IMAGE: the --channels strongest
  cam        Grad-CAM at --stage (default: the last one that the logits depend on)
  gradients  integrated gradients, from the mean colour in --steps steps
  occlusion  drop of the logit behind a square of --window pixels, every --stride pixels
  norms      norms of activations and gradients by stage
  relus      units of each ReLU that are 0 for every IMAGE
  field      effective receptive field of --stage; without IMAGE, for noise
  surface    loss along two filter-normalised directions, --points times --points
  check      gradient check in float64, by central differences along random directions
  rates      learning-rate finder over --steps steps
  curve      errors over the size of the training set, at the percentages --shares

The explained class, which is also the label of losses, is --target or the most probable one. An
existing file is not overwritten.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_jax import config_files, errors, plan
from cnn_jax.runtime import console, files, flags

if TYPE_CHECKING:
    from cnn_jax.inspect import jobs
    from cnn_jax.plan import Plan

_OF_NETWORK = (
    *("filters", "maps", "cam", "gradients", "occlusion", "norms", "relus", "field", "surface"),
    "check",
)
_OF_CONFIG = ("rates", "curve")
_WITH_IMAGES = ("maps", "cam", "gradients", "occlusion", "norms", "relus", "surface")
_WITHOUT_IMAGES = ("filters", "check", *_OF_CONFIG)
# The jobs that read a flag; others refuse it.
_READERS = {
    "stage": ("maps", "cam", "field"),
    "target": ("cam", "gradients", "occlusion", "norms", "surface"),
    "channels": ("maps",),
    "steps": ("gradients", "rates"),
    "window": ("occlusion",),
    "stride": ("occlusion",),
    "points": ("surface",),
    "radius": ("surface",),
    "shares": ("curve",),
}
_FLAGS = ("--help", "--config", "--out", "--workdir", "--weights", "--model")


def main() -> int:
    """Runs the command line."""
    args, others = _parser().parse_known_intermixed_args()
    _check(args, others)
    # Imported here, so that --help and mistakes in the flags answer at once.
    from cnn_jax.inspect import jobs

    if args.job in _OF_CONFIG:
        text = getattr(jobs, args.job)(_settings(args, others), _options(args), args.out)
    else:
        text = getattr(jobs, args.job)(_network(args), _options(args), args.out)
    print(errors.printable(text, keep_lines=True))
    print(errors.printable(str(args.out)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("inspect", __doc__)
    parser.allow_abbrev = False
    flags.add_network(parser)
    parser.add_argument("job", metavar="JOB", choices=(*_OF_NETWORK, *_OF_CONFIG))
    parser.add_argument("images", metavar="IMAGE", nargs="*", action=flags.StorePath)
    flags.add_out(parser, "the picture, a new .png file")
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="of rates and curve: the config to train"
    )
    parser.add_argument("--stage", help="an endpoint, such as stage3, or the path of a module")
    parser.add_argument("--target", help="class name or index; one for each IMAGE with commas")
    parser.add_argument("--channels", type=int, help="feature maps that are drawn; default: 23")
    parser.add_argument("--steps", type=int, help="default: 50 (gradients), 100 (rates)")
    parser.add_argument("--window", type=int, help="in pixels of the input; default: an eighth")
    parser.add_argument("--stride", type=int, help="in pixels; default: half the window")
    parser.add_argument("--points", type=int, help="along each direction; default: 21")
    parser.add_argument(
        "--radius", type=float, help="the largest change of a filter, by its norm; default: 1"
    )
    parser.add_argument("--shares", help="percentages, such as 10,30,100; default: 5,10,20,50,100")
    parser.add_argument("--seed", type=int, default=0, help="of noise and directions; default: 0")
    flags.add_batch_size(parser, 32, "images that are computed together (default: 32)")
    return parser


def _check(args: argparse.Namespace, others: Sequence[str]) -> None:
    """Checks the flags.

    Raises:
      UserError: a flag is missing, or the job does not read it.
    """
    if args.out is None:
        raise errors.UserError("--out is missing; give the new file, such as --out=picture.png")
    files.check_new(args.out, [".png"])
    for name, readers in _READERS.items():
        if getattr(args, name) is not None and args.job not in readers:
            raise errors.UserError(
                f"--{name} is for {' and '.join(readers)}, not for {args.job}; leave it out"
            )
    if args.job in _WITH_IMAGES and not args.images:
        raise errors.UserError(f"{args.job} needs images; give their files")
    if args.job in _WITHOUT_IMAGES and args.images:
        raise errors.UserError(f"{args.job} reads no images, got {args.images[0]}; leave them out")
    if args.job in _OF_CONFIG:
        if (args.config is None) == (args.workdir is None) or args.weights or args.model:
            raise errors.UserError(f"{args.job} needs either --config or --workdir")
        return
    if args.config is not None or others:
        given = "--config" if args.config is not None else others[0]
        raise errors.UserError(f"{given} is not a flag of {args.job}; see --help")
    flags.check_network(args)


def _options(args: argparse.Namespace) -> "jobs.Options":
    from cnn_jax.inspect import jobs

    given: dict[str, Any] = {name: getattr(args, name) for name in (*_READERS, "images", "seed")}
    if given["target"] is not None:
        given["target"] = given["target"].split(",")
    if given["shares"] is not None:
        given["shares"] = _percentages(given["shares"])
    return jobs.Options(**{name: value for name, value in given.items() if value is not None})


def _percentages(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise errors.UserError(f"--shares must be percentages such as 10,30,100, got {text!r}")
    return tuple(map(int, words))


def _network(args: argparse.Namespace) -> Any:
    """Returns the predictor of a run, of published weights, or with initial parameters."""
    from cnn_jax import models
    from cnn_jax.inspect import networks
    from cnn_jax.predictor import from_flags

    if args.weights is None and args.model in models.names():
        return networks.untrained(args.model, seed=args.seed, batch_size=args.batch_size)
    return from_flags.load(args)


def _settings(args: argparse.Namespace, others: Sequence[str]) -> "Plan":
    from cnn_jax.runs import workdir

    overrides = config_files.parse_overrides(others, _FLAGS)
    if args.config is not None:
        settings = plan.read(config_files.load(args.config))
    else:
        settings = workdir.load_plan(Path(args.workdir))
    return config_files.override(settings, overrides)


if __name__ == "__main__":
    console.exit_with(main)
