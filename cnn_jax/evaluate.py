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
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_jax import errors, limits
from cnn_jax.runtime import console, flags

if TYPE_CHECKING:
    from cnn_jax.evaluators.of_run import Evaluation
    from cnn_jax.plan import Plan


def main() -> int:
    """Runs the command line."""
    parser = _parser()
    args, others = parser.parse_known_args()
    # Imported here, so that --help answers at once.
    from cnn_jax.runs import workdir
    from cnn_jax.runtime import compilation_cache, sharding

    settings = _settings(args.workdir, others) if others else None
    from cnn_jax.evaluators import of_run

    sharding.start()
    sharding.check_devices()
    if workdir.load_plan(args.workdir).compilation_cache:
        compilation_cache.use_cache()
    which = args.checkpoint or "best"
    terminal = sys.stderr.isatty()
    evaluation = of_run.run(
        args.workdir,
        args.split,
        which,
        args.batch_size,
        _show if terminal and sharding.is_primary() else None,
        settings=settings,
        out=args.out,
        show=lambda found: print(_table(_rows(found, args.split, which)), flush=True),
        trust=args.trust,
        average=args.average,
        confusion=args.confusion,
    )
    if not sharding.is_primary():
        return 0
    if evaluation.written:
        rows = _rows(evaluation, args.split, which)
        rows["written"] = ", ".join(map(str, evaluation.written))
        print(_table(rows).splitlines()[-1])
    for reason in evaluation.unwritten:
        print(f"not written: {errors.printable(reason)}", file=sys.stderr)
    return int(bool(evaluation.unwritten) and args.out is not None)


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("evaluate", __doc__)
    flags.add_run(parser, required=True)
    parser.add_argument(
        "--split",
        default="test",
        help="train, validation or test, as in the run's config; or a stored split or a slice of "
        "one, such as 'test[:50%%]'",
    )
    flags.add_batch_size(parser, 0, "over all devices; 0: the config's (default)")
    parser.add_argument(
        "--confusion",
        action="store_true",
        help=f"write the confusion matrix of more than {limits.MAX_CONFUSION_CLASSES:,} classes "
        "too, as .npy",
    )
    flags.add_out(parser, "a new .json file for the result, in place of the one in --workdir")
    return parser


def _settings(directory: Path, words: Sequence[str]) -> "Plan":
    """Returns the run's plan with the values of --config.KEY=VALUE."""
    from cnn_jax import config_files
    from cnn_jax.runs import workdir

    own = (
        "--workdir",
        "--checkpoint",
        "--average",
        "--no-average",
        "--trust",
        "--confusion",
        "--split",
        "--batch_size",
        "--out",
    )
    texts = config_files.parse_overrides(words, own)
    settings = workdir.load_plan(directory)
    if "data.source" in texts:  # The run's name and directory belong to its own source.
        section = dataclasses.replace(settings.data, name="", directory="")
        settings = dataclasses.replace(settings, data=section)
    return config_files.override(settings, texts)


def _show(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done} of {total} batches", end=end, file=sys.stderr, flush=True)


def _rows(evaluation: "Evaluation", split: str, which: str) -> dict[str, str]:
    """Returns the rows of the printed table, without that of the written files."""
    chosen = {"best": "the best by validation", "last": "the last"}.get(which, "as given")
    examples = int(evaluation.counts.sum())
    rows = {
        "checkpoint": f"step {evaluation.step}, {chosen}",
        **({"weights": evaluation.weights} if evaluation.weights else {}),
        **({"data": evaluation.data} if evaluation.data else {}),
        "split": f"{split}, {examples:,} examples",
        **{name: f"{value:.4f}" for name, value in evaluation.values.items()},
    }
    for name, accuracy in evaluation.class_accuracies.items():
        rows[f"class {name}"] = "no example" if accuracy is None else f"{accuracy:.4f}"
    return rows


def _table(rows: Mapping[str, str]) -> str:
    """Returns one line per row, such as 'top1:  0.9700'."""
    return console.block({f"{name}:": value for name, value in rows.items()})


if __name__ == "__main__":
    console.exit_with(main)
