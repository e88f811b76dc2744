"""Evaluation of a run's checkpoint, with the result written into its work directory."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import data, errors, evaluators, plan, predictor
from cnn_jax.contracts import Feed, Objective, Source
from cnn_jax.data import sources
from cnn_jax.evaluators.of_predictor import check_classes
from cnn_jax.plan import GIVEN, Plan
from cnn_jax.predictor import Restored
from cnn_jax.runs import plots, workdir
from cnn_jax.runtime import sharding

_OWN_SPLITS = ("train", "validation", "test")
_PLACE = ("data.source", "data.name", "data.directory", "data.classes")
_CROP = ("data.eval_crop", "data.resize", "data.shorter_side")
OVERRIDABLE = (*_PLACE, *_CROP, "data.workers", "data.max_bad_images")
"""Config keys that an evaluation may override: those of the set's place and the evaluation crop."""
_LONGEST = 40  # letters of a split or a set in the name of a file


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation of a run.

    Attributes:
      values: metrics by name, such as 'top1'.
      confusion: `[K, K]` counts, a row for each true class.
      class_names: the name of each class.
      step: the step of the checkpoint.
      path: the JSON file with the result; a PNG file of the same name has the confusion matrix.
      data: the name of the data set if it is not the run's, such as 'folder photos'; else empty.
    """

    values: dict[str, float]
    confusion: np.ndarray
    class_names: Sequence[str]
    step: int
    path: Path
    data: str = ""

    @property
    def class_accuracies(self) -> dict[str, float | None]:
        """The accuracy on the examples of each class; None for a class without examples."""
        counts, correct = self.confusion.sum(1), self.confusion.diagonal()
        return {
            name: float(right / count) if count else None
            for name, right, count in zip(self.class_names, correct, counts, strict=True)
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
    out: Path | None = None,
) -> Evaluation:
    """Evaluates a checkpoint of a run and writes the result into the work directory of the run.

    The files are `evaluation-SPLIT-CHECKPOINT.json` and `.png`; earlier ones are replaced. For a
    slice of a split or another data set, the names also tell these.

    Args:
      directory: the work directory.
      split: 'train', 'validation' or 'test' of the run; or a stored split of the data set or a
        slice of one, such as 'test[:50%]'. Of another data set, all names are those of stored
        splits.
      which: the checkpoint: 'best' by validation, 'last' or a step such as '500'.
      batch_size: examples per batch over all devices; 0 for `eval.batch_size` of the run's config.
      tell: called after each batch with two counts: batches finished, batches in total.
      settings: the run's plan with other values of the keys `OVERRIDABLE`, for another data set
        with the run's classes or another evaluation crop.
      source: the data set of a run that was made with `train.run(source=...)`.
      objective: the objective of a run that was made with `train.run(objective=...)`.
      out: a new .json file for the result, in place of the one in the work directory.

    Raises:
      UserError: there is no such run, split or checkpoint, an object is missing, other keys differ,
        the data set has other classes, or `out` exists.
    """
    directory = Path(directory)
    if batch_size < 0:
        raise errors.UserError(f"the batch size must be at least 1, got {batch_size}")
    if out is not None:
        _check_out(out)
    stored = workdir.load_plan(directory)
    changed = {} if settings is None else _changed(stored, settings)
    restored = predictor.restore(directory, which, objective=objective)
    if settings is not None and changed:
        restored = dataclasses.replace(restored, plan=_checked(settings))
    source = _opened(restored.plan, directory, source)
    other_set = not changed.keys().isdisjoint(_PLACE)
    own = split in _OWN_SPLITS and not other_set
    feed = _bind(restored, source, split, own)
    with contextlib.closing(feed):
        size = batch_size or restored.plan.eval.batch_size
        values, confusion = _measure(restored, feed, split, size, tell)
    title = sources.title(restored.plan.data)
    usual = own and changed.keys().isdisjoint(_CROP)
    name = f"evaluation-{split}-{which}.json"
    if not usual:
        name = _file_name(split, which, title if other_set else "", restored.plan.data, changed)
    evaluation = Evaluation(
        values=values,
        confusion=confusion,
        class_names=restored.description.class_names,
        step=restored.step,
        path=out or directory / name,
        data=title if other_set else "",
    )
    if sharding.is_primary():
        about = {} if usual else {"split": split, "overridden": changed}
        _write(evaluation, f"{restored.plan.model.name}, {title}, {split}", about)
    return evaluation


def _changed(stored: Plan, settings: Plan) -> dict[str, Any]:
    """Returns the values of a plan that are not those of the run, by path.

    Raises:
      UserError: an evaluation may not change one of them.
    """
    changed = {path: new for path, (_, new) in plan.differences(stored, settings).items()}
    for path in changed:
        if path not in OVERRIDABLE:
            raise errors.UserError(
                f"{path} is the run's and cannot be changed for an evaluation; allowed: "
                f"{', '.join(OVERRIDABLE)}"
            )
    return changed


def _checked(settings: Plan) -> Plan:
    """Returns a plan whose values of `OVERRIDABLE` are allowed, with the source 'auto' replaced.

    Raises:
      UserError: a value is not allowed, or two exclude each other.
    """
    section = dataclasses.replace(settings.data, storage="auto")  # The run's may not fit the set.
    if section.source != GIVEN:
        data.check(section)
        section = sources.resolve(section)
    return dataclasses.replace(settings, data=section)


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
    restored: Restored, feed: Feed, split: str, batch_size: int, tell: evaluators.Tell | None
) -> tuple[dict[str, float], np.ndarray]:
    """Returns the values of all evaluators of the run by label, and the confusion matrix."""
    values: dict[str, float] = {}
    confusion = np.zeros((0, 0))
    given = evaluators.make(restored.plan, restored.description.num_classes)
    for name, evaluator in given.items():
        evaluate = evaluators.prepare(restored.predict, feed, evaluator, restored.layout)
        result = evaluate(restored.variables, split, batch_size, tell)
        values |= {evaluators.label(name, key): value for key, value in result.values.items()}
        confusion = result.details.get("confusion", confusion)
    return values, confusion


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
    digest = hashlib.sha256(json.dumps([split, exact], sort_keys=True).encode()).hexdigest()
    words = split.replace("%", "pct").replace("[:", "-to-")
    parts = ("evaluation", _safe(words), _safe(place), digest[:8], which)
    return f"{'-'.join(filter(None, parts))}.json"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")[:_LONGEST]


def _check_out(out: Path) -> None:
    if out.suffix != ".json":
        raise errors.UserError(f"--out must end in .json, got {out}; a .png file is written beside")
    for path in (out, out.with_suffix(".png")):
        if os.path.lexists(path):
            raise errors.UserError(f"{path} exists and is not overwritten; choose another --out")
    if not out.absolute().parent.is_dir():
        raise errors.UserError(f"the folder of --out {out} does not exist; make it first")


def _write(evaluation: Evaluation, subject: str, about: Mapping[str, Any]) -> None:
    content = {
        **evaluation.values,
        "examples": int(evaluation.confusion.sum()),
        "checkpoint_step": evaluation.step,
        **about,
        "per_class_accuracy": evaluation.class_accuracies,
        "confusion": evaluation.confusion.tolist(),
    }
    workdir.save(evaluation.path.parent, evaluation.path.name, content)
    title = f"{subject}, step {evaluation.step}"
    picture = evaluation.path.with_suffix(".png")
    plots.confusion(evaluation.confusion, evaluation.class_names, title, picture)
