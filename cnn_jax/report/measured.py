"""The outcome of a run on a split: a stored evaluation, or a new one that is stored."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.data.selection import Selected
from cnn_jax.evaluators import (
    chosen_examples,
    example_rows,
    networks,
    of_predictor,
    thorough,
)
from cnn_jax.evaluators.chosen_examples import Chosen
from cnn_jax.evaluators.example_rows import ExampleRows
from cnn_jax.evaluators.networks import DataSet, Networks
from cnn_jax.evaluators.request import Request
from cnn_jax.evaluators.whole_split import Tell
from cnn_jax.objectives import averaged
from cnn_jax.predictor import Predictor
from cnn_jax.report.gaps import Measurement
from cnn_jax.report.stored import Stored
from cnn_jax.runs import checkpoint, logs, workdir

SAMPLE = 5000
"""The largest number of examples of a split that are evaluated for its error."""

_SEED = 0  # of the sample
# Entries of results that are not of the plain network on the whole split.
_OTHER = ("views", "soup", "subset", "left_out", "overridden", "corruptions")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Request of a report.

    Attributes:
      split: the split.
      checkpoint: 'best', 'last' or a step.
      average: see `predictor.restore`.
      trust: see `predictor.restore`.
      batch_size: examples per batch; 0 for the config's.
      human_error: the human-level error, or None.
    """

    split: str = "test"
    checkpoint: str = "best"
    average: bool | None = None
    trust: bool = False
    batch_size: int = 0
    human_error: float | None = None

    def networks(self, directory: Path) -> Networks:
        """Returns the request to load the network of a run."""
        return Networks(
            runs=(directory,),
            checkpoint=self.checkpoint,
            average=self.average,
            trust=self.trust,
            batch_size=self.batch_size,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """The result of an evaluation.

    Attributes:
      content: the content of its .json file, with 'per_class' and, for up to
        `limits.MAX_CONFUSION_CLASSES` classes, 'confusion'.
      rows: the outcome of each example; None if the file of a stored result is missing or damaged.
      path: the .json file; None if it could not be written.
    """

    content: Mapping[str, Any]
    rows: ExampleRows | None
    path: Path | None

    @property
    def step(self) -> int:
        """The step of the checkpoint; -1 if it is unknown."""
        steps = self.content.get("checkpoint_steps") or self.content.get("checkpoint_step")
        step = steps[0] if isinstance(steps, list) else steps
        return step if type(step) is int else -1


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The network of a run with its data set.

    Attributes:
      predictor: the network.
      data_set: the data set.
    """

    predictor: Predictor
    data_set: DataSet

    def examples(self, split: str) -> Selected:
        """Returns the examples of a split.

        Raises:
          UserError: see `chosen_examples.select`.
        """
        own = self.data_set
        return chosen_examples.select(own.source, own.keys, split, own.runs)

    def chosen(self, selected: Selected) -> Chosen:
        """Returns examples with the class indices of the network."""
        names = (self.data_set.class_names, self.predictor.class_names)
        return chosen_examples.choose(selected, *names, None)


def load(found: Stored, wanted: Wanted) -> Network:
    """Loads the network and opens its data set.

    Raises:
      UserError: see `networks.open_data` and `networks.load`.
    """
    given = wanted.networks(found.last)
    data_set = networks.open_data(given, None)
    (only,) = networks.load(given, data_set).predictors
    return Network(only, data_set)


def step_of(found: Stored, wanted: Wanted) -> int | None:
    """Returns the step of the checkpoint; None without checkpoints.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    if not found.steps:
        return None
    return checkpoint.choose(found.last / workdir.CHECKPOINTS, wanted.checkpoint)


def find(
    found: Stored, wanted: Wanted, step: int | None, *, complete: bool = True
) -> Outcome | None:
    """Returns the newest stored evaluation of the split, or None.

    Args:
      found: the files of the run.
      wanted: what is reported.
      step: of the checkpoint; None for any.
      complete: True for a result with the outcome of each example, and with a temperature if one
        can be fitted.
    """
    calibrated = can_calibrate(found, wanted.split)
    for path, content in reversed(list(found.results.items())):
        outcome = Outcome(content, None, path)
        if not _is_of(path, content, wanted.split) or not _has_weights(found, content, wanted):
            continue
        if step is not None and outcome.step != step:
            continue
        if complete and calibrated and "calibration" not in content:
            continue
        outcome = dataclasses.replace(outcome, rows=_rows(path))
        if outcome.rows is not None or not complete:
            return outcome
    return None


def _is_of(path: Path, content: Mapping[str, Any], split: str) -> bool:
    """Returns True for a result of the plain network on a whole split."""
    if any(content.get(name) for name in _OTHER) or len(content.get("models") or [0]) > 1:
        return False
    # Results of `of_run` name their split only in the name of the file.
    usual = path.name.startswith(f"evaluation-{split}-") and "per_class_accuracy" in content
    top1 = content.get("top1")
    is_share = isinstance(top1, float) and 0 <= top1 <= 1
    return is_share and content.get("split", "") in ((split, "") if usual else (split,))


def _has_weights(found: Stored, content: Mapping[str, Any], wanted: Wanted) -> bool:
    """Returns True if a result is of the weights that are reported: raw, or their average."""
    settings = found.last_settings
    if settings is None:
        return True
    title = averaged.title(settings, averaged.choose(settings, wanted.average, str(found.last)))
    given = content.get("weights") or ""
    return title == (given[0] if isinstance(given, list) and given else given)


def _rows(path: Path) -> ExampleRows | None:
    try:
        return example_rows.read(path)
    except errors.UserError:
        return None


def evaluate(found: Stored, wanted: Wanted, tell: Tell | None = None) -> Outcome:
    """Evaluates the split, with a temperature where there is a validation split, and stores it.

    Args:
      found: the files of the run.
      wanted: what is reported.
      tell: see `thorough.run`.

    Raises:
      UserError: see `thorough.run`.
    """
    request = Request(split=wanted.split, calibrate=can_calibrate(found, wanted.split))
    result = thorough.run(wanted.networks(found.last), request, tell=tell)
    content = {**result.content, "per_class": result.per_class}
    if len(result.class_names) <= limits.MAX_CONFUSION_CLASSES:
        content["confusion"] = result.found.confusion().tolist()
    path = result.path if result.path in result.written else None
    return Outcome(content, result.rows, path)


def can_calibrate(found: Stored, split: str) -> bool:
    """Returns True if the temperature can be fitted on the validation split of the run."""
    if split == "validation" or found.description is None:
        return False
    sizes = found.description.sizes
    settings = found.last_settings
    named = settings is not None and bool(settings.data.validation_split)
    return bool(sizes.get("validation")) if sizes else named


def errors_of(
    found: Stored,
    wanted: Wanted,
    outcome: Outcome | None,
    network: Network | None,
    earlier: Mapping[str, Any],
) -> dict[str, Measurement]:
    """Returns the errors of 'training', 'validation' and 'test', and 'human' where it is given.

    The first source that has the number is used: the evaluation, other stored evaluations and the
    log at the same step, an earlier report, and a new evaluation of a sample.

    Args:
      found: the files of the run.
      wanted: what is reported.
      outcome: the evaluation, or None.
      network: the network, or None.
      earlier: the errors in an earlier report of the same checkpoint and weights.
    """
    result: dict[str, Measurement] = {}
    if wanted.human_error is not None:
        result["human"] = Measurement(wanted.human_error, 0, "given")
    if outcome is None:
        return result
    for name, split in (("training", "train"), ("validation", "validation"), ("test", "test")):
        measurement = (
            (split == wanted.split and _of_content(outcome.content, "this evaluation"))
            or _of_results(found, wanted, outcome, split)
            or (split != "train" and _of_log(found, wanted, outcome.step, split))
            or _of_report(earlier.get(name))
            or (network and _of_sample(found, network, split))
        )
        if measurement:
            result[name] = measurement
    return result


def _of_content(content: Mapping[str, Any], origin: str) -> Measurement:
    examples = content.get("examples")
    return Measurement(1 - content["top1"], examples if type(examples) is int else 0, origin)


def _of_results(found: Stored, wanted: Wanted, outcome: Outcome, split: str) -> Measurement | None:
    for path, content in reversed(list(found.results.items())):
        is_same = Outcome(content, None, path).step == outcome.step
        if is_same and _is_of(path, content, split) and _has_weights(found, content, wanted):
            return _of_content(content, path.name)
    return None


def _of_log(found: Stored, wanted: Wanted, step: int, split: str) -> Measurement | None:
    """Returns the error in the log of the last phase at a step, of the same weights."""
    if found.last_settings is None or found.description is None:
        return None
    weights = averaged.choose(found.last_settings, wanted.average, str(found.last))
    rows = [row for row in found.rows if row["split"] == split]
    if found.last != found.directory:  # Steps of the log count from the first phase.
        offset = _offset(found)
        rows = [{**row, "step": row["step"] - offset} for row in rows]
    for row in reversed(rows):
        top1 = logs.of_weights(row, weights).get("top1")
        if row["step"] == step and isinstance(top1, float):
            size = int(found.description.sizes.get(split, 0))
            return Measurement(1 - top1, size, f"{workdir.METRICS}, step {row['step']:,}")
    return None


def _offset(found: Stored) -> int:
    """Returns the number of steps before the last phase."""
    number = int(found.last.name.rpartition("-")[2])
    return max((row["step"] for row in found.rows if row.get("phase", 0) < number), default=0)


def _of_report(stored: Any) -> Measurement | None:
    try:
        return Measurement(float(stored["error"]), int(stored["examples"]), str(stored["origin"]))
    except (KeyError, TypeError, ValueError):
        return None


def _of_sample(found: Stored, network: Network, split: str) -> Measurement | None:
    """Evaluates up to `SAMPLE` examples of a split, without augmentation."""
    sizes = found.description.sizes if found.description is not None else {}
    if sizes and not sizes.get(split):
        return None
    try:
        selected = network.examples(split)
    except errors.UserError:
        return None  # The run has no such split.
    whole = len(selected)
    if whole > SAMPLE:
        drawn = np.random.default_rng(_SEED).choice(whole, SAMPLE, replace=False)
        places = np.asarray(selected.indices)[np.sort(drawn)]
        selected = Selected(selected.examples, places)
    result = of_predictor.evaluate(network.predictor, network.chosen(selected), Chosen.SPLIT)
    part = f"{len(selected):,} of {whole:,}" if len(selected) < whole else f"{whole:,}"
    words = f"{part} examples, without augmentation"
    return Measurement(1 - result.values["top1"], len(selected), words)
