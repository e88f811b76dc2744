"""Thorough evaluation: scores with intervals, calibration, views, ensembles, comparisons.

    request = thorough.Request(split="test", views="ten_crops", out=Path("result.json"))
    thorough.run(Networks(runs=(Path("runs/lenet"),)), request).content["top1"]

The outputs of the networks are computed once; all scores are of these. `cnn_jax.evaluate` is the
command. `thorough_files` writes the result, and `results_csv` adds a line to a table.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import errors
from cnn_jax.data.selection import Selected
from cnn_jax.evaluators import (
    calibration,
    chosen_examples,
    ensembles,
    example_rows,
    intervals,
    networks,
    of_predictor,
    results_csv,
    right_answers,
    scores,
    thorough_files,
    views,
)
from cnn_jax.evaluators.chosen_examples import Chosen
from cnn_jax.evaluators.example_rows import SEED, ExampleRows, Examples
from cnn_jax.evaluators.networks import DataSet, Loaded, Networks
from cnn_jax.evaluators.right_answers import Answers, Subset
from cnn_jax.evaluators.scores import PerExample
from cnn_jax.evaluators.thorough_files import Thorough
from cnn_jax.evaluators.view_inputs import Views
from cnn_jax.evaluators.whole_split import Tell
from cnn_jax.plan import Plan
from cnn_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Request:
    """Request of an evaluation: the split, the views, and the values to report.

    Attributes:
      split: 'train', 'validation' or 'test' of a run; or a stored split or a slice of one. Empty
        for 'test', or the only split of a set.
      views: one of `views.NAMES`; empty for the predictor's one.
      mean: one of `ensembles.MEANS`, over networks and over views; empty for 'probabilities'.
      calibrate: whether a temperature is fitted.
      fit_split: the split that it is fitted on; empty for 'validation' of a run.
      answers: a file of right answers, such as ReaL's `real.json`.
      subset: a file of classes, or 'data' for those of the data set; empty for all.
      against: the .json file of an earlier result on the same examples.
      csv: a table that gets a line.
      out: a new .json file for the result, in place of the one in the first work directory.
      confusion: whether the confusion matrix of any number of classes is written.
    """

    split: str = ""
    views: str = ""
    mean: str = ""
    calibrate: bool = False
    fit_split: str = ""
    answers: Path | None = None
    subset: str = ""
    against: Path | None = None
    csv: Path | None = None
    out: Path | None = None
    confusion: bool = False


def run(
    given: Networks,
    request: Request,
    settings: Plan | None = None,
    tell: Tell | None = None,
    show: Callable[[Thorough], None] | None = None,
) -> Thorough:
    """Evaluates networks on a split, every example once, and writes the result.

    Args:
      given: the networks.
      request: what is evaluated.
      settings: see `networks.open_data`.
      tell: called after each batch with two counts: batches finished, batches in total.
      show: called with the result before files are written, on the primary process.

    Raises:
      UserError: a value is not allowed, a file cannot be read or may not be written, the data set
        has other classes than the networks, or the results cannot be compared.
    """
    check(given, request)
    earlier = None if request.against is None else example_rows.read(request.against)
    data_set = networks.open_data(given, settings)
    request = _resolved(request, data_set)
    selected = _select(request, data_set)
    loaded = networks.load(given, data_set.changed)
    job = _Job.prepare(request, data_set, loaded, selected, earlier)
    found = job.measure(given, tell)
    if not sharding.is_primary():
        return found
    if show is not None:
        show(found)
    found = thorough_files.write(found)
    if request.csv is not None:
        results_csv.append(request.csv, results_csv.row(found.content, job.loaded.predictors))
        found = dataclasses.replace(found, written=(*found.written, request.csv))
    return found


def check(given: Networks, request: Request) -> None:
    """Checks a request before anything is loaded.

    Raises:
      UserError: a value is not allowed, or a file may not be written.
    """
    given.check()
    if request.views and request.views not in views.NAMES:
        raise errors.unknown("--views", request.views, views.NAMES)
    if request.mean and request.mean not in ensembles.MEANS:
        raise errors.unknown("--mean", request.mean, ensembles.MEANS)
    if request.mean and not request.views and len(given.titles) < 2:
        raise errors.UserError("--mean is for several networks or --views; leave it out")
    if request.fit_split and not request.calibrate:
        raise errors.UserError("--fit_split is for --calibrate; give both or neither")
    if request.calibrate and not request.fit_split and not given.runs:
        raise errors.UserError(
            "--calibrate of published weights needs --fit_split, a split or a slice that is not "
            "evaluated, such as --fit_split='test[:50%]' --split='test[50%:]'"
        )
    if request.answers is not None and request.subset:
        raise errors.UserError(
            "--answers and --subset exclude each other: right answers are among all classes"
        )
    _check_files(request)


def _check_files(request: Request) -> None:
    subset = None if request.subset in ("", chosen_examples.OF_DATA) else Path(request.subset)
    for path in filter(None, (request.answers, subset)):
        if not path.exists():
            raise errors.UserError(f"there is no file {path}; check the path")
    if request.out is not None:
        thorough_files.check_out(request.out)
    if request.csv is not None:
        results_csv.check(request.csv)


def _resolved(request: Request, data_set: DataSet) -> Request:
    """Returns a request with the usual splits in place of empty ones."""
    stored, split = [*data_set.source.splits], request.split
    if not split:
        split = "test" if data_set.runs or "test" in stored else stored[0]
        if split != "test" and len(stored) > 1:
            raise errors.UserError(
                f"the data set has no split 'test'; give --split, one of {', '.join(stored)}"
            )
    fit_split = (request.fit_split or "validation") if request.calibrate else ""
    return dataclasses.replace(request, split=split, fit_split=fit_split)


def _select(request: Request, data_set: DataSet) -> list[Selected]:
    """Returns the examples that are evaluated and, for a temperature, those that it is fitted on.

    Raises:
      UserError: no such split, or the two share examples.
    """
    wanted = [request.split, *filter(None, [request.fit_split])]
    where = (data_set.source, data_set.keys)
    selected = [chosen_examples.select(*where, split, data_set.runs) for split in wanted]
    if len(selected) > 1:
        chosen_examples.check_apart(selected[0], selected[1], *wanted)
    return selected


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """An evaluation whose flags and files have been checked.

    Attributes:
      request: what is evaluated.
      data_set: the data set.
      loaded: the networks.
      chosen: the examples.
      fitted: those that the temperature is fitted on; None without calibration.
      subset: the classes that are compared; None for all.
      answers: the right answers, or None.
      earlier: the rows of an earlier result, or None.
      order: the row of `earlier` of each example.
    """

    request: Request
    data_set: DataSet
    loaded: Loaded
    chosen: Chosen
    fitted: Chosen | None
    subset: Subset | None
    answers: Answers | None
    earlier: ExampleRows | None
    order: np.ndarray

    @classmethod
    def prepare(
        cls,
        request: Request,
        data_set: DataSet,
        loaded: Loaded,
        selected: Sequence[Selected],
        earlier: ExampleRows | None,
    ) -> "_Job":
        """Finds the classes, and checks all that can be checked without the outputs."""
        predictors = loaded.predictors
        if len(predictors) > 1:
            ensembles.check_members(predictors, "an ensemble")
        for each in predictors if request.views else ():
            _views(request).bind(each)
        names = (data_set.class_names, predictors[0].class_names)
        subset = chosen_examples.find_subset(request.subset, *names)
        chosen, *fitted = (chosen_examples.choose(each, *names, subset) for each in selected)
        answers = None
        if request.answers is not None:
            answers = right_answers.read_answers(
                request.answers,
                names=chosen.names,
                num_classes=len(chosen.class_names),
                labels=chosen.examples.labels(),
            )
        job = cls(
            *(request, data_set, loaded, chosen, fitted[0] if fitted else None, subset, answers),
            *(earlier, np.zeros(0, np.int64)),
        )
        if earlier is None:
            return job
        order = example_rows.match(job.examples, earlier, str(request.against))
        return dataclasses.replace(job, order=order)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that are compared."""
        return self.chosen.class_names if self.subset is None else self.subset.class_names

    @property
    def examples(self) -> Examples:
        """Names and labels of the examples; the labels are among `class_names`."""
        labels = self.chosen.examples.labels()
        labels = labels if self.subset is None else self.subset.labels(labels)
        return Examples(np.array(self.chosen.names), labels, np.array(self.class_names))

    def measure(self, given: Networks, tell: Tell | None) -> Thorough:
        """Computes the outputs and all scores."""
        whole = self._logits(self.chosen, tell)
        examples = self.examples
        found = scores.per_example(self._restricted(whole), examples.labels)
        values, tables = _values(found), {"network": _bins(found)}
        rows = example_rows.of_scores(examples, found)
        further: dict[str, Any] = {"intervals": _intervals(found)}
        if self.fitted is not None:
            further["calibration"] = self._calibration(whole, self.fitted, tables, tell)
        if self.answers is not None:
            counted = int(self.answers.counted.sum())
            further["real"] = {**self.answers.summary(whole), "examples": counted}
        if self.earlier is not None:
            compared = example_rows.compare(rows, self.earlier, self.order)
            further["against"] = {"result": str(self.request.against), **compared}
        content = {**self._about(given), **values, **further}
        return Thorough(
            content=content,
            found=found,
            class_names=self.class_names,
            rows=rows,
            reliability={name: table.rows() for name, table in tables.items()},
            path=self._path(given),
            confusion=self.request.confusion,
        )

    def _logits(self, chosen: Chosen, tell: Tell | None) -> np.ndarray:
        """Returns the logits `[N, K]` of examples, averaged over views and networks."""
        options: Mapping[str, Any] = {
            "views": _views(self.request) if self.request.views else None,
            "rows": True,
            "tell": tell,
        }
        predictors = self.loaded.predictors
        if len(predictors) == 1:
            result = of_predictor.evaluate(predictors[0], chosen, Chosen.SPLIT, **options)
        else:
            mean = self.request.mean or ensembles.MEANS[0]
            result = ensembles.evaluate(predictors, chosen, Chosen.SPLIT, mean=mean, **options)
        logits: np.ndarray = result.details["logits"]
        return logits

    def _restricted(self, logits: np.ndarray) -> np.ndarray:
        return logits if self.subset is None else self.subset.logits(logits)

    def _calibration(
        self,
        logits: np.ndarray,
        fitted: Chosen,
        tables: dict[str, calibration.Bins],
        tell: Tell | None,
    ) -> dict[str, Any]:
        """Returns the temperature and the calibrated values; adds their table to `tables`."""
        labels = [each.examples.labels() for each in (self.chosen, fitted)]
        if self.subset is not None:
            labels = [self.subset.labels(each) for each in labels]
        outputs = self._restricted(self._logits(fitted, tell))
        temperature = calibration.fit_temperature(outputs, labels[1])
        found = scores.per_example(self._restricted(logits), labels[0], temperature=temperature)
        table = tables[f"temperature {temperature:.3g}"] = _bins(found)
        before, after = (each.rows() for each in tables.values())
        return {
            "fit_split": self.request.fit_split,
            "fit_examples": len(labels[1]),
            "temperature": temperature,
            "calibrated_nll": float(found.nll.mean()),
            "calibrated_brier": float(found.brier.mean()),
            "calibrated_ece": table.error,
            "bins": before,
            "calibrated_bins": after,
        }

    def _about(self, given: Networks) -> dict[str, Any]:
        """Returns what was evaluated, for the JSON file."""
        request, loaded = self.request, self.loaded
        averaged = request.views or len(loaded.predictors) > 1
        optional = {
            "checkpoint_steps": list(loaded.steps),
            "weights": list(loaded.weights) if any(loaded.weights) else [],
            "views": request.views,
            "mean": (request.mean or ensembles.MEANS[0]) if averaged else "",
            "subset": request.subset,
            "left_out": self.chosen.left_out,
            "overridden": dict(self.data_set.changed) if given.runs else {},
        }
        return {
            "models": list(given.titles),
            "param_count": loaded.param_count,
            "data": self.data_set.title,
            "split": request.split,
            "examples": len(self.chosen.examples),
            **{name: value for name, value in optional.items() if value},
        }

    def _path(self, given: Networks) -> Path | None:
        """Returns the path of the JSON file; None for published weights without `out`."""
        request = self.request
        if request.out is not None or not given.runs:
            return request.out
        words = [
            "" if self.data_set.runs else self.data_set.title,
            f"ensemble of {len(given.runs)}" if len(given.runs) > 1 else "",
            request.views.replace("_", "-"),
            "subset" if request.subset else "",
            "calibrated" if request.calibrate else "",
        ]
        kept = dataclasses.replace(request, csv=None, confusion=False)
        directory = str(Path(self.data_set.keys.directory).absolute())
        exact = [given.titles, dataclasses.asdict(kept), dict(self.data_set.changed), directory]
        which = "-".join(filter(None, (given.checkpoint or "best", self.loaded.ending)))
        return given.runs[0] / thorough_files.name(request.split, words, exact, which)


def _views(request: Request) -> Views:
    """Returns the views of a request that names some."""
    found: Any = views.NAMES[request.views]()
    return dataclasses.replace(found, mean=request.mean) if request.mean else found


def _bins(found: PerExample) -> calibration.Bins:
    return calibration.bins(found.confidence, found.right())


def _values(found: PerExample) -> dict[str, float]:
    summary = found.summary()
    values = {**summary, "ece": _bins(found).error}
    order = dict.fromkeys(("top1", "top5", "nll", "brier", "ece", *summary))
    return {name: values[name] for name in order if name in values}


def _intervals(found: PerExample) -> dict[str, Any]:
    """Returns the bootstrap intervals, with their level, resamples and seed."""
    columns = {"top1": found.right(), "nll": found.nll}
    if "top5" in found.summary():
        columns["top5"] = found.right(5)
    ends = {name: intervals.bootstrap(column, seed=SEED) for name, column in columns.items()}
    ends["ece"] = intervals.calibration_error(found.confidence, found.right(), seed=SEED)
    return {
        "level": intervals.LEVEL,
        "resamples": intervals.RESAMPLES,
        "seed": SEED,
        **{name: list(ends[name]) for name in ("top1", "top5", "nll", "ece") if name in ends},
    }
