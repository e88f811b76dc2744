"""Thorough evaluation: scores with intervals, calibration, views, ensembles, comparisons.

    request = Request(split="test", views="ten_crops", out=Path("result.json"))
    thorough.run(Networks(runs=(Path("runs/lenet"),)), request).content["top1"]

The outputs of the networks are computed once; all scores are of these. `cnn_jax.evaluate` is the
command. `request` has the request and its checks, `thorough_files` writes the result, and
`results_csv` adds a line to a table.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.evaluators import (
    calibration,
    chosen_examples,
    descriptions,
    ensembles,
    example_rows,
    intervals,
    networks,
    of_predictor,
    results_csv,
    right_answers,
    scores,
    soup_networks,
    thorough_files,
)
from cnn_jax.evaluators import request as requests
from cnn_jax.evaluators.chosen_examples import Chosen
from cnn_jax.evaluators.example_rows import SEED, ExampleRows, Examples
from cnn_jax.evaluators.networks import DataSet, Loaded, Networks
from cnn_jax.evaluators.request import Request, Selection
from cnn_jax.evaluators.right_answers import Answers, Subset
from cnn_jax.evaluators.scores import PerExample
from cnn_jax.evaluators.thorough_files import Thorough
from cnn_jax.evaluators.whole_split import Tell
from cnn_jax.plan import Plan
from cnn_jax.runtime import sharding


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
    requests.check(given, request)
    earlier = None if request.against is None else example_rows.read(request.against)
    data_set = networks.open_data(given, settings)
    asked, request = request, requests.resolved(request, data_set)
    selection = requests.select(asked, request, data_set)
    loaded = networks.load(given, data_set)
    loaded = soup_networks.mix(loaded, given.titles, request, data_set, selection)
    job = _Job.prepare(request, data_set, loaded, selection, earlier)
    found = job.measure(given, tell)
    if not sharding.is_primary():
        return found
    if show is not None:
        show(found)
    rows = [results_csv.row(found.content, job.loaded.predictors)]
    return thorough_files.write(found, request.csv, rows)


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
        selection: Selection,
        earlier: ExampleRows | None,
    ) -> "_Job":
        """Returns the evaluation; finds the classes, and checks all but the outputs.

        Args:
          request: the request, with its splits.
          data_set: the data set.
          loaded: the networks, or their soup.
          selection: the examples, with the labels of the data set.
          earlier: the rows of an earlier result, or None.

        Raises:
          UserError: the networks have different classes, the views do not fit them, or a file does
            not fit the examples.
        """
        predictors = loaded.predictors
        if len(predictors) > 1:
            ensembles.check_members(predictors, "an ensemble")
        if (views := request.make_views()) is not None:
            for each in predictors:
                views.bind(each)
        names = (data_set.class_names, predictors[0].class_names)
        subset = chosen_examples.find_subset(request.subset, *names)
        chosen = chosen_examples.choose(selection.evaluated, *names, subset)
        fitted = None
        if request.calibrate and selection.fitted is not None:
            fitted = chosen_examples.choose(selection.fitted, *names, subset)
        answers = None
        if request.answers is not None:
            answers = right_answers.read_answers(
                request.answers,
                names=chosen.names,
                num_classes=len(chosen.class_names),
                labels=chosen.examples.labels(),
            )
        job = cls(
            *(request, data_set, loaded, chosen, fitted, subset, answers),
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
        """Computes the outputs and all scores.

        Args:
          given: the networks as they were named.
          tell: called after each batch with two counts: batches finished, batches in total.
        """
        details = self._outputs(self.chosen, tell)
        whole = details["logits"]
        examples = self.examples
        found = scores.per_example(self._restricted(whole), examples.labels)
        values, tables = _values(found), {"network": _bins(found)}
        rows = example_rows.of_scores(examples, found)
        further: dict[str, Any] = {"intervals": _intervals(found)}
        if "member_logits" in details:
            further["members"] = self._members(given, details["member_logits"], examples.labels)
        if self.fitted is not None:
            further["calibration"] = self._calibration(whole, self.fitted, tables, tell)
        if self.answers is not None:
            counted = int(self.answers.counted.sum())
            further["real"] = {**self.answers.summary(whole), "examples": counted}
        if self.earlier is not None:
            compared = example_rows.compare(rows, self.earlier, self.order)
            further["against"] = {"result": str(self.request.against), **compared}
        content = {
            **descriptions.about(given, self.request, self.data_set, self.loaded, self.chosen),
            **values,
            **further,
        }
        return Thorough(
            content=content,
            found=found,
            class_names=self.class_names,
            rows=rows,
            reliability={name: table.rows() for name, table in tables.items()},
            path=descriptions.path(given, self.request, self.data_set, self.loaded),
            confusion=self.request.confusion,
        )

    def _outputs(self, chosen: Chosen, tell: Tell | None) -> Mapping[str, Any]:
        """Returns the details of an evaluation of examples.

        `logits` `[N, K]` are averaged over views and networks; `member_logits` of several networks
        are those of each.
        """
        options: Mapping[str, Any] = {
            "views": self.request.make_views(),
            "rows": True,
            "tell": tell,
        }
        predictors = self.loaded.predictors
        if len(predictors) == 1:
            result = of_predictor.evaluate(predictors[0], chosen, Chosen.SPLIT, **options)
        else:
            mean = self.request.mean or ensembles.MEANS[0]
            result = ensembles.evaluate(predictors, chosen, Chosen.SPLIT, mean=mean, **options)
        return result.details

    def _members(
        self, given: Networks, logits: Sequence[np.ndarray], labels: np.ndarray
    ) -> list[dict[str, Any]]:
        """Returns the values of each network of an ensemble, for the JSON file."""
        return [
            {"model": title, **_values(scores.per_example(self._restricted(one), labels))}
            for title, one in zip(given.titles, logits, strict=True)
        ]

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
        outputs = self._restricted(self._outputs(fitted, tell)["logits"])
        temperature = calibration.fit_temperature(outputs, labels[1])
        found = scores.per_example(self._restricted(logits), labels[0], temperature=temperature)
        table = tables[f"temperature {temperature:.3g}"] = _bins(found)
        before, after = (each.rows() for each in tables.values())
        return {
            "fit_split": self.request.fit_split,
            "fit_examples": len(labels[1]),
            "temperature": temperature,
            "is_limit": calibration.is_limit(temperature),
            "calibrated_nll": float(found.nll.mean()),
            "calibrated_brier": float(found.brier.mean()),
            "calibrated_ece": table.error,
            "bins": before,
            "calibrated_bins": after,
        }


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
