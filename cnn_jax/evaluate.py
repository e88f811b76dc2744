r"""Evaluate a checkpoint of a run on a whole split, every example exactly once.

  python -m cnn_jax.evaluate --workdir=DIR [--split=test] [--checkpoint=best|last|STEP]

prints loss, accuracies and the accuracy on each class, and writes the same with the confusion
matrix to DIR/evaluation-SPLIT-CHECKPOINT.json and .png.

  python -m cnn_jax.evaluate --workdir=DIR --split='test[:50%]'
  python -m cnn_jax.evaluate --workdir=DIR --split=test \
    --config.data.source=folder --config.data.directory=PHOTOS

evaluates on a slice of a stored split, or on another data set with the classes of the run.
--config.data.KEY=VALUE is allowed for the keys source, name, directory, classes, eval_crop, resize,
shorter_side, workers and max_bad_images.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    )
    if sharding.is_primary():
        print(_table(evaluation, args.split, which))
    return 0


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
    flags.add_out(parser, "a new .json file for the result, in place of the one in --workdir")
    return parser


def _settings(directory: Path, words: Sequence[str]) -> "Plan":
    """Returns the run's plan with the values of --config.KEY=VALUE."""
    from cnn_jax import config_files
    from cnn_jax.runs import workdir

    own = ("--workdir", "--checkpoint", "--split", "--batch_size", "--out")
    texts = config_files.parse_overrides(words, own)
    settings = workdir.load_plan(directory)
    if "data.source" in texts:  # The run's name and directory belong to its own source.
        section = dataclasses.replace(settings.data, name="", directory="")
        settings = dataclasses.replace(settings, data=section)
    return config_files.override(settings, texts)


def _show(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done} of {total} batches", end=end, file=sys.stderr, flush=True)


def _table(evaluation: "Evaluation", split: str, which: str) -> str:
    chosen = {"best": "the best by validation", "last": "the last"}.get(which, "as given")
    examples = int(evaluation.confusion.sum())
    rows = {
        "checkpoint": f"step {evaluation.step}, {chosen}",
        **({"data": evaluation.data} if evaluation.data else {}),
        "split": f"{split}, {examples:,} examples",
        **{name: f"{value:.4f}" for name, value in evaluation.values.items()},
    }
    for name, accuracy in evaluation.class_accuracies.items():
        rows[f"class {name}"] = "no example" if accuracy is None else f"{accuracy:.4f}"
    rows["written"] = f"{evaluation.path}, {evaluation.path.with_suffix('.png')}"
    return console.block(rows)


if __name__ == "__main__":
    console.exit_with(main)
