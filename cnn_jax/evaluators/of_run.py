"""Evaluation of a run's checkpoint, with the result written into its work directory."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnn_jax import data, errors, evaluators, predictor
from cnn_jax.data import sources
from cnn_jax.runs import plots, workdir
from cnn_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation of a run.

    Attributes:
      values: metrics by name, such as 'top1'.
      confusion: `[K, K]` counts, a row for each true class.
      class_names: the name of each class.
      step: the step of the checkpoint.
      path: the JSON file with the result; a PNG file of the same name has the confusion matrix.
    """

    values: dict[str, float]
    confusion: np.ndarray
    class_names: Sequence[str]
    step: int
    path: Path

    @property
    def class_accuracies(self) -> dict[str, float | None]:
        """The accuracy on the examples of each class; None for a class without examples."""
        counts, correct = self.confusion.sum(1), self.confusion.diagonal()
        return {
            name: float(right / count) if count else None
            for name, right, count in zip(self.class_names, correct, counts, strict=True)
        }


def run(
    directory: Path,
    split: str,
    which: str,
    batch_size: int = 0,
    tell: evaluators.Tell | None = None,
) -> Evaluation:
    """Evaluates a checkpoint of a run and writes the result into the work directory of the run.

    The files are `evaluation-SPLIT-CHECKPOINT.json` and `.png`; earlier ones are replaced.

    Args:
      directory: the work directory.
      split: 'train', 'validation' or 'test'.
      which: the checkpoint: 'best' by validation, 'last' or a step such as '500'.
      batch_size: examples per batch over all devices; 0 for `eval.batch_size` of the run's config.
      tell: called after each batch with two counts: batches finished, batches in total.

    Raises:
      UserError: there is no such run, split or checkpoint.
    """
    if batch_size < 0:
        raise errors.UserError(f"the batch size must be at least 1, got {batch_size}")
    restored = predictor.restore(directory, which)
    plan, description = restored.plan, restored.description
    feed = data.bind(data.open_source(plan.data), plan, restored.layout, description)
    evaluator = evaluators.make()[evaluators.MAIN]
    evaluate = evaluators.prepare(restored.predict, feed, evaluator, restored.layout)
    with contextlib.closing(feed):
        result = evaluate(restored.variables, split, batch_size or plan.eval.batch_size, tell)
    evaluation = Evaluation(
        values=result.values,
        confusion=result.details["confusion"],
        class_names=description.class_names,
        step=restored.step,
        path=directory / f"evaluation-{split}-{which}.json",
    )
    if sharding.is_primary():
        _write(evaluation, f"{plan.model.name}, {sources.title(plan.data)}, {split}")
    return evaluation


def _write(evaluation: Evaluation, subject: str) -> None:
    content = {
        **evaluation.values,
        "examples": int(evaluation.confusion.sum()),
        "checkpoint_step": evaluation.step,
        "per_class_accuracy": evaluation.class_accuracies,
        "confusion": evaluation.confusion.tolist(),
    }
    workdir.save(evaluation.path.parent, evaluation.path.name, content)
    title = f"{subject}, step {evaluation.step}"
    picture = evaluation.path.with_suffix(".png")
    plots.confusion(evaluation.confusion, evaluation.class_names, title, picture)
