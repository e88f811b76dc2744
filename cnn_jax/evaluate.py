"""Evaluate a split of a run, every example exactly once.

  python -m cnn_jax.evaluate --workdir=DIR [--split=test] [--checkpoint=best|last|STEP]

prints loss and accuracies and writes `evaluation-SPLIT-CHECKPOINT.json` and a confusion matrix
beside it as PNG.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cnn_jax import data, errors, metrics, models
from cnn_jax.runs import checkpoint, plots, workdir
from cnn_jax.runtime import compilation_cache, console, malloc, sharding
from cnn_jax.train import state
from cnn_jax.train import step as steps


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result over a whole split.

    Attributes:
      values: 'loss', 'top1' and, where there are more than five classes, 'top5'.
      confusion: `[K, K]` counts, a row for each true class.
    """

    values: dict[str, float]
    confusion: np.ndarray


def evaluate(
    eval_step: steps.EvalStep, variables: Any, dataset: data.Resident, split: str, batch_size: int
) -> Evaluation:
    """Run the network over a whole split.

    Args:
      eval_step: of `steps.make_eval_step`.
      variables: the network's.
      dataset: has the split.
      split: its name.
      batch_size: over all devices; any size gives the same counts.

    Raises:
      RuntimeError: the examples counted are not those of the split.
    """
    num_batches = -(-dataset.size(split) // batch_size)
    batches = tqdm(
        dataset.eval_inputs(split, batch_size),
        desc=split,
        total=num_batches,
        leave=False,
        disable=not sharding.is_primary(),
    )
    results = []
    for inputs in batches:
        results.append(eval_step(variables, inputs))
        sharding.wait_for_earlier(results)
    totals = metrics.add(sums for sums, _ in results)
    confusion = np.sum(jax.device_get([matrix for _, matrix in results]), axis=0)
    if not totals["loss"][1] == confusion.sum() == dataset.size(split):
        raise RuntimeError(
            f"{split} has {dataset.size(split)} examples, but {totals['loss'][1]} were counted"
        )
    return Evaluation(metrics.mean(totals), confusion)


def run(directory: Path, split: str, which: str, batch_size: int = 0) -> Evaluation:
    """Evaluate a run's checkpoint and write the result into its work directory.

    Args:
      directory: the work directory.
      split: 'train', 'validation' or 'test'.
      which: 'best', 'last' or a step.
      batch_size: over all devices; 0 for the config's.

    Raises:
      ValueError: there is no such run, split or checkpoint.
    """
    config = workdir.load(directory, workdir.CONFIG)
    size = batch_size or config["eval"]["batch_size"]
    if size < 1:
        raise errors.UserError(f"the batch size must be at least 1, got {size}")
    mesh = sharding.make_mesh()
    # The training split may not divide by the devices here, and need not: nothing is trained.
    dataset = data.make(**config["data"], batch_size=mesh.size, seed=config["seed"], mesh=mesh)
    dataset.size(split)
    model = models.create(**config["model"], num_classes=dataset.num_classes)
    like = state.abstract_variables(model, dataset.input_shape, mesh)
    variables = checkpoint.restore(directory / workdir.CHECKPOINTS, which, like).state
    eval_step = steps.make_eval_step(model, dataset.eval_batch, mesh=mesh)
    result = evaluate(eval_step, variables, dataset, split, size)
    if sharding.is_primary():
        _write(result, dataset.class_names, directory, f"evaluation-{split}-{which}")
    return result


def _write(result: Evaluation, names: Sequence[str], directory: Path, stem: str) -> None:
    counts = result.confusion.sum(1)
    correct = result.confusion.diagonal()
    per_class = {
        name: float(right / count) if count else None
        for name, right, count in zip(names, correct, counts, strict=True)
    }
    content = {
        **result.values,
        "examples": int(counts.sum()),
        "per_class_accuracy": per_class,
        "confusion": result.confusion.tolist(),
    }
    workdir.save(directory, f"{stem}.json", content)
    plots.confusion(result.confusion, names, stem, directory / f"{stem}.png")
    for name, value in result.values.items():
        print(f"{name}: {value:.4f}")
    for name, accuracy in per_class.items():
        print(f"  {name}: " + ("no example" if accuracy is None else f"{accuracy:.4f}"))
    print(f"written: {directory / stem}.json, {directory / stem}.png")


def main() -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m cnn_jax.evaluate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--workdir", required=True, type=Path, help="work directory of the run")
    parser.add_argument(
        "--split", default="test", help="train, validation or test, as in the run's config"
    )
    parser.add_argument(
        "--checkpoint", default="best", help="best by validation (default), last, or a step"
    )
    parser.add_argument(
        "--batch_size", default=0, type=int, help="over all devices; 0: the config's (default)"
    )
    args = parser.parse_args()
    malloc.keep()
    sharding.start()
    if workdir.load(args.workdir, workdir.CONFIG).get("compilation_cache", True):
        compilation_cache.use_cache()
    run(args.workdir, args.split, args.checkpoint, args.batch_size)
    return 0


if __name__ == "__main__":
    console.exit_with(main)
