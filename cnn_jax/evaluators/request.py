"""The request of an evaluation: its fields, their checks, and the examples that it names."""

import dataclasses
from pathlib import Path
from typing import Any

from cnn_jax import errors
from cnn_jax.data.selection import Selected
from cnn_jax.evaluators import (
    chosen_examples,
    corrupted,
    corruptions,
    ensembles,
    results_csv,
    thorough_files,
    views,
)
from cnn_jax.evaluators.networks import DataSet, Networks
from cnn_jax.evaluators.view_inputs import Views
from cnn_jax.runtime import files, seeds

SOUPS = ("uniform", "greedy")
"""The soups that a request can name; see `soups`."""

_GROUPS = {
    "imagenet_c": corruptions.NAMES,
    "extra": corruptions.EXTRA,
    "all": tuple(corruptions.TABLE),
}
# Fields that a sweep over corruptions does not use, with their flags.
_NOT_SWEPT = ("calibrate", "answers", "subset", "against", "confusion")


@dataclasses.dataclass(frozen=True)
class Request:
    """Request of an evaluation: the split, the views, and the values to report.

    Attributes:
      split: 'train', 'validation' or 'test' of a run; or a stored split or a slice of one. Empty
        for 'test', or the only split of a set.
      views: one of `views.NAMES`; empty for the predictor's one.
      mean: one of `ensembles.MEANS`, over networks and over views; empty for 'probabilities'.
      soup: one of `SOUPS`, to average the weights of the networks; empty to average their outputs.
      statistics_split: the training images that the batch statistics of a soup are computed from;
        empty for 'train' of a run.
      calibrate: whether a temperature is fitted.
      fit_split: the split that the temperature is fitted on, and that chooses the members of a
        greedy soup; empty for 'validation' of a run.
      answers: a file of right answers, such as ReaL's `real.json`.
      subset: a file of classes, or 'data' for those of the data set; empty for all.
      against: the .json file of an earlier result on the same examples.
      corruptions: the corruptions of a sweep: names between commas, 'imagenet_c', 'extra' or 'all';
        empty for an evaluation without corruptions.
      severities: the severities of the sweep, integers between commas; empty for 1 to 5.
      corrupt: one of `corrupted.PLACES`, the images that are corrupted; empty for 'input'.
      seed: of the noise of the sweep.
      csv: a table that gets a line, or of a sweep a line for each corruption and severity.
      out: a new .json file for the result, in place of the one in the first work directory.
      confusion: whether the confusion matrix of any number of classes is written.
    """

    split: str = ""
    views: str = ""
    mean: str = ""
    soup: str = ""
    statistics_split: str = ""
    calibrate: bool = False
    fit_split: str = ""
    answers: Path | None = None
    subset: str = ""
    against: Path | None = None
    corruptions: str = ""
    severities: str = ""
    corrupt: str = ""
    seed: int = 0
    csv: Path | None = None
    out: Path | None = None
    confusion: bool = False

    @property
    def needs_fit_split(self) -> bool:
        """True if a temperature is fitted or the members of a soup are chosen."""
        return self.calibrate or self.soup == "greedy"

    @property
    def corruption_names(self) -> tuple[str, ...]:
        """The names of the corruptions of a sweep."""
        group = _GROUPS.get(self.corruptions)
        return _words(self.corruptions) if group is None else group

    @property
    def severity_numbers(self) -> tuple[int, ...]:
        """The severities of a sweep.

        Raises:
          UserError: one of them is no integer.
        """
        try:
            return tuple(map(int, _words(self.severities))) or corruptions.SEVERITIES
        except ValueError as error:
            raise errors.UserError(
                f"--severities must be integers from 1 to 5, such as 1,3,5; got {self.severities!r}"
            ) from error

    def make_views(self) -> Views | None:
        """Returns the views, or None for the predictor's one."""
        if not self.views:
            return None
        found: Any = views.NAMES[self.views]()
        return dataclasses.replace(found, mean=self.mean) if self.mean else found


def check(given: Networks, request: Request) -> None:
    """Checks a request before anything is loaded.

    Args:
      given: the networks.
      request: the request.

    Raises:
      UserError: a value is not allowed, two exclude each other, or a file may not be written.
    """
    given.check()
    if request.views and request.views not in views.NAMES:
        raise errors.unknown("--views", request.views, views.NAMES)
    if request.answers is not None and request.subset:
        raise errors.UserError(
            "--answers and --subset exclude each other: right answers are among all classes"
        )
    _check_means(given, request)
    _check_fit_split(given, request)
    _check_sweep(given, request)
    _check_files(request)


def _check_means(given: Networks, request: Request) -> None:
    if request.mean and request.mean not in ensembles.MEANS:
        raise errors.unknown("--mean", request.mean, ensembles.MEANS)
    if request.soup and request.soup not in SOUPS:
        raise errors.unknown("--soup", request.soup, SOUPS)
    if request.soup and len(given.titles) < 2:
        raise errors.UserError(
            "--soup averages the weights of several networks; name them in --workdir or --weights, "
            "or several steps in --checkpoint, with commas between them"
        )
    if request.mean and not request.views and (request.soup or len(given.titles) < 2):
        raise errors.UserError("--mean is for several networks or --views; leave it out")
    if request.statistics_split and not request.soup:
        raise errors.UserError("--statistics_split is for --soup; give both or neither")


def _check_fit_split(given: Networks, request: Request) -> None:
    if request.fit_split and not request.needs_fit_split:
        raise errors.UserError(
            "--fit_split is for --calibrate and --soup=greedy; leave it out, or give one of them"
        )
    if request.needs_fit_split and not request.fit_split and not given.runs:
        flag = "--calibrate" if request.calibrate else "--soup=greedy"
        raise errors.UserError(
            f"{flag} of published weights needs --fit_split, a split or a slice that is not "
            "evaluated, such as --fit_split='test[:50%]' --split='test[50%:]'"
        )


def _check_sweep(given: Networks, request: Request) -> None:
    if not request.corruptions:
        for name in ("severities", "corrupt", "seed"):
            if getattr(request, name):
                raise errors.UserError(f"--{name} is for --corruptions; give both or neither")
        return
    if request.corrupt and request.corrupt not in corrupted.PLACES:
        raise errors.unknown("--corrupt", request.corrupt, corrupted.PLACES)
    seeds.check(request.seed, "--seed")
    corrupted.check_pairs(request.corruption_names, request.severity_numbers)
    if request.views and request.corrupt != "stored":
        raise errors.UserError(
            "several views are cut from the stored image, so --corruptions with --views needs "
            "--corrupt=stored"
        )
    if len(given.titles) > 1 and not request.soup:
        raise errors.UserError(
            f"--corruptions is for one network or one --soup, got {len(given.titles)} networks; "
            "evaluate each of them"
        )
    for name in _NOT_SWEPT:
        if getattr(request, name):
            raise errors.UserError(f"--corruptions and --{name} exclude each other; give one")


def _check_files(request: Request) -> None:
    is_file = request.subset not in ("", chosen_examples.OF_DATA)
    subset = files.local(request.subset, "--subset") if is_file else None
    for path in filter(None, (request.answers, subset)):
        if not path.exists():
            raise errors.UserError(f"there is no file {path}; check the path")
    if request.out is not None:
        thorough_files.check_out(request.out)
    if request.csv is not None:
        results_csv.check(request.csv)


def resolved(request: Request, data_set: DataSet) -> Request:
    """Returns a request with the usual splits in place of empty ones.

    Args:
      request: the request.
      data_set: its data set.

    Raises:
      UserError: `split` is empty, and the set has several splits, of which none is 'test'.
    """
    stored, split = [*data_set.source.splits], request.split
    if not split:
        split = "test" if data_set.runs or "test" in stored else stored[0]
        if split != "test" and len(stored) > 1:
            raise errors.UserError(
                f"the data set has no split 'test'; give --split, one of {', '.join(stored)}"
            )
    fit_split = (request.fit_split or "validation") if request.needs_fit_split else ""
    statistics_split = request.statistics_split
    if request.soup and data_set.runs:
        statistics_split = statistics_split or "train"
    return dataclasses.replace(
        request, split=split, fit_split=fit_split, statistics_split=statistics_split
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """The examples of a request, with the labels of the data set.

    Attributes:
      evaluated: those that are evaluated.
      fitted: those of `fit_split`, or None.
      statistics: those of `statistics_split`, or None.
    """

    evaluated: Selected
    fitted: Selected | None = None
    statistics: Selected | None = None


def select(asked: Request, request: Request, data_set: DataSet) -> Selection:
    """Returns the examples of a request.

    Args:
      asked: the request as it was given, for messages.
      request: the request that `resolved` returned.
      data_set: its data set.

    Raises:
      UserError: no such split, or the evaluated examples and those of `fit_split` overlap.
    """

    def find(name: str) -> Selected | None:
        split = getattr(request, name)
        if not split:
            return None
        try:
            return chosen_examples.select(data_set.source, data_set.keys, split, data_set.runs)
        except errors.UserError as error:
            if getattr(asked, name):
                raise
            is_calibration = name == "fit_split" and request.calibrate
            flag = "--calibrate" if is_calibration else f"--soup={request.soup}"
            raise errors.UserError(
                f"{flag} uses the split {split!r} unless --{name} names another one: {error}. Give "
                f"--{name} a split or a slice that is not evaluated, such as 'train[90%:]'"
            ) from error

    evaluated = chosen_examples.select(data_set.source, data_set.keys, request.split, data_set.runs)
    found = Selection(evaluated, find("fit_split"), find("statistics_split"))
    if found.fitted is not None:
        chosen_examples.check_apart(evaluated, found.fitted, request.split, request.fit_split)
    return found


def _words(text: str) -> tuple[str, ...]:
    """Returns the words of a text between commas."""
    return tuple(filter(None, map(str.strip, text.split(","))))
