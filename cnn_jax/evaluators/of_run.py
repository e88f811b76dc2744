"""Evaluation of a run's checkpoint, with the result written into its work directory."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import data, errors, evaluators, limits, plan, predictor
from cnn_jax.contracts import Feed, Objective, Source
from cnn_jax.data import sources
from cnn_jax.evaluators import classification, result_files
from cnn_jax.evaluators.of_predictor import check_classes
from cnn_jax.plan import GIVEN, Plan
from cnn_jax.predictor import Restored
from cnn_jax.runs import logs, plots, workdir
from cnn_jax.runtime import files, sharding

_OWN_SPLITS = ("train", "validation", "test")
PLACE = ("data.source", "data.name", "data.directory", "data.classes")
"""Config keys that say where a data set is."""
_CROP = ("data.eval_crop", "data.eval_image_size", "data.resize", "data.shorter_side")
OVERRIDABLE = (*PLACE, *_CROP, "data.workers", "data.max_bad_images")
"""Config keys that an evaluation may override: those of the set's place and the evaluation crop."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation of a run.

    Attributes:
      values: metrics by name, such as 'top1'.
      counts: `[K]`, the number of examples of each class.
      correct: `[K]`, the number of those that were predicted rightly.
      confusion: `[K, K]` counts, a row for each true class; `[0, 0]` where it was left out.
      class_names: the name of each class.
      step: the step of the checkpoint.
      path: the JSON file with the result; a PNG file of the same name has the confusion matrix.
      data: the name of the data set if it is not the run's, such as 'folder photos'; else empty.
      written: the files that were written.
      unwritten: the reasons why others were not, such as a read-only work directory.
      weights: text that names the weights, such as 'average, ema.decay 0.999'; empty if the run
        has no average.
    """

    values: dict[str, float]
    counts: np.ndarray
    correct: np.ndarray
    confusion: np.ndarray
    class_names: Sequence[str]
    step: int
    path: Path
    data: str = ""
    written: tuple[Path, ...] = ()
    unwritten: tuple[str, ...] = ()
    weights: str = ""

    @property
    def class_accuracies(self) -> dict[str, float | None]:
        """The accuracy on the examples of each class; None for a class without examples."""
        return {
            name: float(right / count) if count else None
            for name, right, count in zip(self.class_names, self.correct, self.counts, strict=True)
        }


def run(
    directory: str | Path,
    split: str,
    which: str = "best",
    batch_size: int = 0,
    tell: evaluators.Tell | None = None,
    *,
    settings: Plan | None = None,
    source: Source | None = None,
    objective: Objective | None = None,
    out: str | Path | None = None,
    show: Callable[[Evaluation], None] | None = None,
    trust: bool = False,
    confusion: bool = False,
    average: bool | None = None,
) -> Evaluation:
    """Evaluates a checkpoint of a run and writes the result into the work directory of the run.

    The files are `evaluation-SPLIT-CHECKPOINT.json` and `.png`; earlier ones are replaced. With
    more classes than `limits.MAX_CONFUSION_CLASSES`, no confusion matrix is made by default. For a
    slice or another data set, the names of the files contain the name of the slice or set; for
    other weights than those of `eval.weights`, also 'average' or 'raw'.
    `unwritten` of the result names files that cannot be written.

    Args:
      directory: the work directory.
      split: 'train', 'validation' or 'test' of the run; or a stored split of the data set or a
        slice of one, such as 'test[:50%]'. Another data set has its stored splits only.
      which: the checkpoint: 'best' by validation, 'last' or a step such as '500'.
      batch_size: examples per batch over all devices; 0 for `eval.batch_size` of the run's config.
      tell: called after each batch with two counts: batches finished, batches in total.
      settings: the run's plan with other values of the keys `OVERRIDABLE`, for another data set
        with the run's classes or another evaluation crop.
      source: the data set of a run that was made with `train.run(source=...)`.
      objective: the objective of a run that was made with `train.run(objective=...)`.
      out: a new .json file for the result, in place of the one in the work directory.
      show: called with the result before files are written, on the primary process.
      trust: True to import modules that the run's config names also from the work directory and
        from `data.directory`. By default, these are data, never code.
      confusion: True for the confusion matrix of any number of classes; that of more classes than
        the limit is written as an array of NumPy, `.npy`.
      average: True for the average of the weights (`ema`), False for the raw ones; by default as
        the run's `eval.weights` says.

    Raises:
      UserError: there is no such run, split or checkpoint; `source` or `objective` is required;
        `settings` differs in other keys; the data set has other classes; `out` exists; or the
        config names a module that is not trusted.
    """
    directory = workdir.last_phase(files.local(directory, "directory"))
    if batch_size < 0:
        raise errors.UserError(f"the batch size must be at least 1, got {batch_size}")
    if out is not None:
        out = files.local(out, "out")
        _check_out(out)
    stored = workdir.load_plan(directory)
    overridden = {} if settings is None else changed(stored, settings)
    with workdir.outside(directory, stored, *filter(None, [settings]), trust=trust):
        restored = predictor.restore(
            directory, which, objective=objective, trust=trust, average=average
        )
        if settings is not None and overridden:
            keys = checked(settings.data)
            restored = restored.with_plan(dataclasses.replace(settings, data=keys))
        source = _opened(restored.plan, directory, source)
        other_set = not overridden.keys().isdisjoint(PLACE)
        own = split in _OWN_SPLITS and not other_set
        with contextlib.closing(_bind(restored, source, split, own)) as feed:
            size = batch_size or restored.plan.eval.batch_size
            values, details = _measure(restored, feed, split, size, tell, confusion)
    title = sources.title(restored.plan.data)
    if restored.weights != stored.eval.weights:
        which = f"{which}-{restored.weights}"
    usual = own and overridden.keys().isdisjoint(_CROP)
    place = title if other_set else ""
    name = (
        f"evaluation-{split}-{which}.json"
        if usual
        else _file_name(split, which, place, restored.plan.data, overridden)
    )
    evaluation = _evaluation(restored, values, details, out or directory / name, place)
    if not sharding.is_primary():
        return evaluation
    if show is not None:
        show(evaluation)
    about = {} if usual else {"split": split, "overridden": overridden}
    return _write(evaluation, f"{restored.plan.model.name}, {title}, {split}", about)


def _evaluation(
    restored: Restored,
    values: dict[str, float],
    details: Mapping[str, Any],
    path: Path,
    place: str,
) -> Evaluation:
    """Returns the result of a checkpoint; `place` names the data set if it is not the run's."""
    return Evaluation(
        values=values,
        counts=details["counts"],
        correct=details["correct"],
        confusion=details.get("confusion", np.zeros((0, 0), np.int64)),
        class_names=restored.description.class_names,
        step=restored.step,
        path=path,
        data=place,
        weights=restored.title,
    )


def changed(
    stored: Plan, settings: Plan, allowed: Sequence[str] = OVERRIDABLE, owner: str = "the run's"
) -> dict[str, Any]:
    """Returns the values of a plan that are not those of another one, by path.

    Args:
      stored: the other plan, such as that of a run.
      settings: the plan.
      allowed: the keys that an evaluation may change.
      owner: whose values the others are, for the message.

    Raises:
      UserError: an evaluation may not change one of them.
    """
    found = {path: new for path, (_, new) in plan.differences(stored, settings).items()}
    for path in found:
        if path not in allowed:
            raise errors.UserError(
                f"{path} is {owner} and cannot be changed for an evaluation; allowed: "
                f"{', '.join(allowed)}"
            )
    return found


def checked(keys: plan.Data) -> plan.Data:
    """Returns the config of a data set to evaluate, with the source 'auto' replaced.

    Raises:
      UserError: a value of `OVERRIDABLE` is not allowed, or two exclude each other.
    """
    keys = dataclasses.replace(keys, storage="auto")  # The run's may not fit the set.
    if keys.source == GIVEN:
        return keys
    data.check(keys)
    return sources.resolve(keys)


def _opened(settings: Plan, directory: Path, given: Source | None) -> Source:
    """Returns the given source, checked, or that of the plan."""
    if given is not None:
        sources.check_source(given)
        return sources.keep_classes(given, settings.data)
    if settings.data.source == GIVEN:
        raise errors.UserError(
            f"the data set of {directory} was given to train.run as an object, so no command can "
            f"open it; pass the object in Python: of_run.run({str(directory)!r}, split, "
            "source=...), or name another set with --config.data.source"
        )
    return data.open_source(settings.data)


def _bind(restored: Restored, source: Source, split: str, own: bool) -> Feed:
    """Returns the feed of the run's split, or of any split of a set with the run's classes."""
    if own:  # Augmentation is for training only; its modules may not be here.
        keys = dataclasses.replace(restored.plan.data, augment=())
        own_plan = dataclasses.replace(restored.plan, data=keys)
        return data.bind(source, own_plan, restored.layout, restored.description)
    check_classes(restored.description.class_names, tuple(source.class_names))
    return data.bind_evaluation(
        source, {split: split}, restored.plan, restored.layout, restored.description
    )


def _measure(
    restored: Restored,
    feed: Feed,
    split: str,
    batch_size: int,
    tell: evaluators.Tell | None,
    confusion: bool,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the values of all evaluators of the run by label, and the details of the main one."""
    values: dict[str, float] = {}
    details: dict[str, Any] = {}
    num_classes = restored.description.num_classes
    main = classification.make(num_classes, confusion=confusion)
    given = evaluators.make(restored.plan, num_classes, {evaluators.MAIN: main})
    for name, evaluator in given.items():
        evaluate = evaluators.prepare(restored.predict, feed, evaluator, restored.layout)
        result = evaluate(restored.variables, split, batch_size, tell)
        values |= {evaluators.label(name, key): value for key, value in result.values.items()}
        if name == evaluators.MAIN:
            details = result.details
    return values, details


def _file_name(
    split: str, which: str, place: str, keys: plan.Data, changed: Mapping[str, Any]
) -> str:
    """Returns the name of the file for a slice or another set: letters, digits and '-' only.

    It tells the split and the set, and has a digest of both and of the crop, because two of them
    may be spelled alike.

    Args:
      split: the split.
      which: the checkpoint.
      place: the name of the data set if it is not the run's, else empty.
      keys: the config of the data set.
      changed: the values that are not those of the run.
    """
    exact = {"directory": str(Path(keys.directory).absolute()), **changed}
    return result_files.name(split, [place], [split, exact], which)


def _check_out(out: Path) -> None:
    files.check_new(out, (".json",))
    for path in (out.with_suffix(".png"), out.with_suffix(".npy")):
        if os.path.lexists(path):
            raise files.exists(path)


def _write(evaluation: Evaluation, subject: str, about: Mapping[str, Any]) -> Evaluation:
    """Writes the files of an evaluation; returns it with those that were and were not written."""
    matrix, is_small = evaluation.confusion, len(evaluation.counts) <= limits.MAX_CONFUSION_CLASSES
    content = {
        **logs.finite(evaluation.values),
        "examples": int(evaluation.counts.sum()),
        "checkpoint_step": evaluation.step,
        **({"weights": evaluation.weights} if evaluation.weights else {}),
        **about,
        "per_class_accuracy": evaluation.class_accuracies,
        **({"confusion": matrix.tolist()} if is_small else {}),
    }

    def save() -> None:
        workdir.save(evaluation.path.parent, evaluation.path.name, content)

    def draw() -> None:
        title = f"{subject}, step {evaluation.step}"
        plots.confusion(matrix, evaluation.class_names, title, picture)

    def store() -> None:
        with files.replacing(array, ".npy") as temporary:
            np.save(temporary, matrix)

    picture, array = evaluation.path.with_suffix(".png"), evaluation.path.with_suffix(".npy")
    writers = [(evaluation.path, save)]
    if is_small:
        writers.append((picture, draw))
    elif matrix.size:
        writers.append((array, store))
    written, unwritten = result_files.write(writers)
    return dataclasses.replace(evaluation, written=written, unwritten=unwritten)
