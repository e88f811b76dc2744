"""Evaluate a checkpoint of a run on a whole split, every example exactly once.

  python -m cnn_jax.evaluate --workdir=DIR [--split=test] [--checkpoint=best|last|STEP]

prints loss, accuracies and the accuracy on each class, and writes the same with the confusion
matrix to DIR/evaluation-SPLIT-CHECKPOINT.json and .png.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from cnn_jax.runtime import console, flags

if TYPE_CHECKING:
    from cnn_jax.evaluators.of_run import Evaluation


def main() -> int:
    """Runs the command line."""
    args = _parser().parse_args()
    # Imported here, so that --help answers at once.
    from cnn_jax.evaluators import of_run
    from cnn_jax.runs import workdir
    from cnn_jax.runtime import compilation_cache, malloc, sharding

    malloc.keep_freed_memory()
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
    )
    if sharding.is_primary():
        print(_table(evaluation, args.split, which))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("evaluate", __doc__)
    flags.add_run(parser, required=True)
    parser.add_argument(
        "--split", default="test", help="train, validation or test, as in the run's config"
    )
    parser.add_argument(
        "--batch_size", default=0, type=int, help="over all devices; 0: the config's (default)"
    )
    return parser


def _show(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done} of {total} batches", end=end, file=sys.stderr, flush=True)


def _table(evaluation: "Evaluation", split: str, which: str) -> str:
    chosen = {"best": "the best by validation", "last": "the last"}.get(which, "as given")
    examples = int(evaluation.confusion.sum())
    rows = {
        "checkpoint": f"step {evaluation.step}, {chosen}",
        "split": f"{split}, {examples:,} examples",
        **{name: f"{value:.4f}" for name, value in evaluation.values.items()},
    }
    for name, accuracy in evaluation.class_accuracies.items():
        rows[f"class {name}"] = "no example" if accuracy is None else f"{accuracy:.4f}"
    rows["written"] = f"{evaluation.path}, {evaluation.path.with_suffix('.png')}"
    return console.block(rows)


if __name__ == "__main__":
    console.exit_with(main)
