r"""Evaluate a checkpoint of a run on a whole split, every example exactly once.

  python -m cnn_jax.evaluate --workdir=DIR [--split=test] [--checkpoint=best|last|STEP]

prints loss, accuracies and the accuracy on each class, and writes the same with the confusion
matrix to DIR/evaluation-SPLIT-CHECKPOINT.json and .png. A message names the files that cannot be
written, as in a read-only DIR; the exit status is 1 only if --out asked for them. The confusion
matrix of more than 1,000 classes is made with --confusion only, as an .npy file.

  python -m cnn_jax.evaluate --workdir=DIR --split='test[:50%]'
  python -m cnn_jax.evaluate --workdir=DIR --split=test \
    --config.data.source=folder --config.data.directory=PHOTOS

evaluates on a slice of a stored split, or on another data set with the classes of the run.
--config.data.KEY=VALUE is allowed for the keys source, name, directory, classes, eval_crop,
eval_image_size, resize, shorter_side, workers and max_bad_images.

  python -m cnn_jax.evaluate --model=resnet50.a1_in1k --config.data.source=folder \
    --config.data.directory=IMAGENET --split=validation --csv=results.csv
  python -m cnn_jax.evaluate --workdir=DIR,DIR2,DIR3
  python -m cnn_jax.evaluate --workdir=DIR --checkpoint=800,900,last --soup=uniform
  python -m cnn_jax.evaluate --workdir=DIR --views=ten_crops --calibrate --against=RESULT.json
  python -m cnn_jax.evaluate --workdir=DIR --corruptions=imagenet_c --csv=results.csv

evaluates published weights (--model, --weights), an ensemble, the mean of the weights of several
checkpoints, several views of each image, or images with the corruptions of ImageNet-C. Without
--corruptions, these flags also print calibration error, Brier score, precision, recall and F1, with
95 % intervals by bootstrap. The .json result then has an .npz file with the outcome of each example
beside it. Published weights write files with --out and --csv only.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_jax import errors, limits
from cnn_jax.runtime import console, flags

if TYPE_CHECKING:
    from cnn_jax.evaluators.of_run import Evaluation
    from cnn_jax.evaluators.swept import Swept
    from cnn_jax.evaluators.thorough_files import Thorough
    from cnn_jax.evaluators.whole_split import Tell
    from cnn_jax.plan import Plan


def main() -> int:
    """Runs the command line."""
    args, others = _parser().parse_known_args()
    flags.check_network(args)
    # Imported here, so that --help and mistakes in the flags answer at once.
    from cnn_jax.runs import workdir
    from cnn_jax.runtime import compilation_cache, sharding

    workdirs = [workdir.last_phase(path) for path in flags.listed(args.workdir)]
    settings = _settings(workdirs[0] if workdirs else None, others) if others else None
    sharding.start()
    sharding.check_devices()
    if all(workdir.load_plan(path).compilation_cache for path in workdirs):
        compilation_cache.use_cache()
    show = functools.partial(console.show_count, "corruptions" if args.corruptions else "batches")
    tell = show if sys.stderr.isatty() and sharding.is_primary() else None
    several = len(workdirs) != 1 or "," in (args.checkpoint or "")
    if several or any(getattr(args, name) for name in _THOROUGH):
        return _run_thorough(args, workdirs, settings, tell)
    return _run_usual(args, workdirs[0], settings, tell)


def _run_usual(
    args: argparse.Namespace, directory: Path, settings: "Plan | None", tell: "Tell | None"
) -> int:
    """Evaluates one checkpoint of a run."""
    from cnn_jax.evaluators import of_run, printed
    from cnn_jax.runtime import sharding

    def rows_of(found: of_run.Evaluation) -> dict[str, str]:
        return printed.of_evaluation(found, split, which)

    which, split = args.checkpoint or "best", args.split or "test"
    evaluation = of_run.run(
        directory,
        split,
        which,
        args.batch_size,
        tell,
        settings=settings,
        out=args.out,
        show=lambda found: print(_table(rows_of(found)), flush=True),
        trust=args.trust,
        average=args.average,
        confusion=args.confusion,
    )
    return _say_written(rows_of(evaluation), evaluation, args) if sharding.is_primary() else 0


def _run_thorough(
    args: argparse.Namespace,
    workdirs: Sequence[Path],
    settings: "Plan | None",
    tell: "Tell | None",
) -> int:
    """Evaluates published weights, ensembles, soups, views and corrupted images."""
    from cnn_jax.evaluators import printed, swept, thorough
    from cnn_jax.evaluators.networks import Networks
    from cnn_jax.evaluators.request import Request
    from cnn_jax.runtime import sharding

    names = tuple(filter(None, (args.model or "").split(",")))
    weights = tuple(flags.listed(args.weights))
    networks = Networks(
        runs=tuple(workdirs),
        weights=weights or names,
        names=names if weights else (),
        checkpoint=args.checkpoint,
        average=args.average,
        trust=args.trust,
        batch_size=args.batch_size,
    )
    request = Request(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(Request)}
    )

    def show(found: Any) -> None:
        print(_table(rows_of(found)), flush=True)

    rows_of: Any = printed.of_sweep if request.corruptions else printed.of_thorough
    run: Any = swept.run if request.corruptions else thorough.run
    found = run(networks, request, settings, tell, show)
    return _say_written(rows_of(found), found, args) if sharding.is_primary() else 0


def _say_written(
    rows: dict[str, str], found: "Evaluation | Thorough | Swept", args: argparse.Namespace
) -> int:
    """Prints the files that were and were not written; returns the exit status."""
    if found.written:
        rows["written"] = ", ".join(map(str, found.written))
        print(_table(rows).splitlines()[-1])
    for reason in found.unwritten:
        print(f"not written: {errors.printable(reason)}", file=sys.stderr)
    return int(bool(found.unwritten) and (args.out is not None or args.csv is not None))


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("evaluate", __doc__)
    flags.add_network(parser)
    parser.add_argument(
        "--split",
        default="",
        help="train, validation or test (default), as in the run's config; or a stored split or a "
        "slice of one, such as 'test[:50%%]'",
    )
    flags.add_batch_size(
        parser, 0, "over all devices; 0: the config's (default), or 32 for published weights"
    )
    parser.add_argument(
        "--confusion",
        action="store_true",
        help=f"write the confusion matrix of more than {limits.MAX_CONFUSION_CLASSES:,} classes "
        "too, as .npy",
    )
    flags.add_out(parser, "a new .json file for the result, in place of the one in --workdir")
    _add_thorough(parser)
    return parser


def _add_thorough(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("views, soups, calibration and comparison")
    group.add_argument(
        "--views", default="", help="of each image: mirrored, ten_crops, dense or multi_scale"
    )
    group.add_argument(
        "--mean",
        default="",
        help="over networks and views: of their probabilities (default) or logits",
    )
    group.add_argument(
        "--soup",
        default="",
        help="average the weights of several networks: uniform, or greedy, which keeps those that "
        "do not lower the accuracy on --fit_split",
    )
    group.add_argument(
        "--statistics_split",
        default="",
        help="the training images that the batch statistics of --soup are computed from; train for "
        "a run",
    )
    group.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature on --fit_split and report the calibrated values too",
    )
    group.add_argument(
        "--fit_split",
        default="",
        help="of --calibrate and --soup=greedy: a split that is not evaluated; default for a run: "
        "validation",
    )
    group.add_argument(
        "--answers",
        action=flags.StorePath,
        help="a .json list of the right classes of each example, such as ReaL's real.json",
    )
    group.add_argument(
        "--subset",
        default="",
        help="compare some classes only: a file with one on each line, or data for those of the "
        "data set",
    )
    group.add_argument(
        "--against",
        action=flags.StorePath,
        help="the .json file of an earlier result on the same examples, to compare with by "
        "McNemar's test",
    )
    group.add_argument(
        "--csv",
        action=flags.StorePath,
        help="a table that gets a line, with timm's columns first; of --corruptions one for each "
        "corruption and severity",
    )
    group = parser.add_argument_group("corruptions of ImageNet-C")
    group.add_argument(
        "--corruptions",
        default="",
        help="evaluate one network or --soup on corrupted images: imagenet_c (15 corruptions), "
        "extra, all, or names such as fog,snow",
    )
    group.add_argument(
        "--severities", default="", help="of --corruptions, such as 1,3,5 (default: 1,2,3,4,5)"
    )
    group.add_argument(
        "--corrupt",
        default="",
        help="the images that are corrupted: input, after resize and crop (default), or stored, "
        "before them",
    )
    group.add_argument("--seed", default=0, type=int, help="of the noise (default: 0)")


_THOROUGH = (
    *("weights", "model", "views", "mean", "soup", "statistics_split", "calibrate", "fit_split"),
    *("answers", "subset", "against", "corruptions", "severities", "corrupt", "seed", "csv"),
)
_FLAGS = (
    *("--workdir", "--checkpoint", "--average", "--no-average", "--trust", "--confusion"),
    *("--split", "--batch_size", "--out", *(f"--{name}" for name in _THOROUGH)),
)


def _settings(directory: Path | None, words: Sequence[str]) -> "Plan":
    """Returns the plan of a run, or an empty one, with the values of --config.KEY=VALUE."""
    from cnn_jax import config_files
    from cnn_jax.plan import Plan
    from cnn_jax.runs import workdir

    texts = config_files.parse_overrides(words, _FLAGS)
    if directory is None:
        return config_files.override(Plan(), {"data.source": "auto", **texts})
    settings = workdir.load_plan(directory)
    if "data.source" in texts:  # The run's name and directory belong to its own source.
        section = dataclasses.replace(settings.data, name="", directory="")
        settings = dataclasses.replace(settings, data=section)
    return config_files.override(settings, texts)


def _table(rows: Mapping[str, str]) -> str:
    """Returns one line per row, such as 'top1:  0.9700'."""
    return console.block({f"{name}:": value for name, value in rows.items()})


if __name__ == "__main__":
    console.exit_with(main)
