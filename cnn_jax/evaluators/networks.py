"""The networks of an evaluation and its data set: those of runs, or published weights."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax import data, errors, plan, predictor
from cnn_jax.contracts import Description, Source
from cnn_jax.data import sources
from cnn_jax.evaluators import of_run
from cnn_jax.plan import GIVEN, Plan
from cnn_jax.predictor import Predictor, Restored
from cnn_jax.predictor.predicting import BATCH_SIZE
from cnn_jax.runs import workdir
from cnn_jax.runtime import imports


@dataclasses.dataclass(frozen=True)
class Networks:
    """Networks as the flags of a command name them: runs, or published weights.

    Attributes:
      runs: work directories, that of a run in phases as its last phase; empty for published
        weights.
      weights: files, or names on the Hub; empty for runs.
      names: the network of each file that does not name its own; one name is that of all files.
      checkpoint: of the runs: 'best', 'last' or a step, or several of them between commas, which
        are networks of their own; None for 'best'.
      average: of the runs: True for the average of the weights, False for the raw ones; None as
        their configs say.
      trust: see `predictor.restore`.
      batch_size: inputs that are computed together; 0 for the config's of a run, else the
        predictor's usual number.
    """

    runs: tuple[Path, ...] = ()
    weights: tuple[str | Path, ...] = ()
    names: tuple[str, ...] = ()
    checkpoint: str | None = None
    average: bool | None = None
    trust: bool = False
    batch_size: int = 0

    def __post_init__(self) -> None:
        """Replaces the work directory of a run in phases by that of its last phase."""
        object.__setattr__(self, "runs", tuple(map(workdir.last_phase, self.runs)))

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The checkpoints of each run."""
        return tuple((self.checkpoint or "best").split(","))

    @property
    def titles(self) -> tuple[str, ...]:
        """The text that names each network; that of a run has the checkpoint if there are more."""
        if len(self.checkpoints) == 1:
            return tuple(map(str, self.runs or self.weights))
        return tuple(f"{run} ({which})" for run, which in self._pairs())

    def _pairs(self) -> Iterator[tuple[Path, str]]:
        """Yields the work directory and the checkpoint of each network of the runs."""
        return itertools.product(self.runs, self.checkpoints)

    def check(self) -> None:
        """Checks the networks, without reading files.

        Raises:
          UserError: no network, runs and weights, a network given twice, an empty checkpoint, a
            wrong number of names, or a negative batch size.
        """
        if bool(self.runs) == bool(self.weights):
            raise errors.UserError("give either work directories or published weights")
        if not all(self.checkpoints):
            raise errors.UserError(
                f"--checkpoint must be best, last or a step, or several of them between commas, "
                f"such as 800,900,last; got {self.checkpoint!r}"
            )
        for title in self.titles:
            if self.titles.count(title) > 1:
                raise errors.UserError(f"{title} is given twice; an ensemble has different members")
        if self.names and len(self.names) not in (1, len(self.weights)):
            raise errors.UserError(
                f"--model names {len(self.names)} networks for {len(self.weights)} files of "
                "--weights; give one for all, or one for each"
            )
        if self.batch_size < 0:
            raise errors.UserError(f"the batch size must be at least 1, got {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The data set of an evaluation.

    Attributes:
      source: the data set.
      keys: its config.
      title: its name for tables, such as 'folder photos'.
      runs: the descriptions of the runs by their directories, if the set is theirs; else empty.
      changed: the config values that are not those of the first run.
    """

    source: Source
    keys: plan.Data
    title: str
    runs: Mapping[str, Description]
    changed: Mapping[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes."""
        return tuple(self.source.class_names)


def open_data(networks: Networks, settings: Plan | None) -> DataSet:
    """Opens the data set of an evaluation.

    Args:
      networks: the networks; without `settings`, the set is that of the first run.
      settings: the config of the first run with other values of `of_run.OVERRIDABLE`; for published
        weights, a config whose section `data` names the set.

    Raises:
      UserError: another value may not be changed, or the set cannot be opened.
    """
    stored = workdir.load_plan(networks.runs[0]) if networks.runs else None
    given = stored if settings is None else settings
    if given is None:
        raise errors.UserError(
            "published weights have no data set; name one, such as --config.data.source=folder "
            "--config.data.directory=DIR"
        )
    if stored is not None:
        changed = of_run.changed(stored, given)
    else:
        owner = "that of the published weights"
        changed = of_run.changed(Plan(), given, of_run.PLACE, owner)
    keys = given.data
    if changed or stored is None:
        keys = of_run.checked(keys)
    own = stored is not None and changed.keys().isdisjoint(of_run.PLACE)
    if keys.source == GIVEN:
        raise errors.UserError(
            f"the data set of {networks.titles[0]} was given to train.run as an object, so no "
            "command can open it; name another set with --config.data.source"
        )
    with _outside(networks, keys.directory):
        source = data.open_source(keys)
    runs = {str(path): workdir.load_description(path) for path in networks.runs} if own else {}
    return DataSet(source, keys, sources.title(keys), runs, changed)


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """Networks with their weights.

    Attributes:
      predictors: the networks.
      steps: the step of the checkpoint of each run.
      weights: text that names the weights of each run with an average, such as 'average, ema.decay
        0.999'; for published weights, the notes on their choice.
      soup: how their weights were averaged, for the JSON file; empty if they were not.
      ending: suffix of the names of result files: 'average' or 'raw' if the weights are not those
        that `eval.weights` of the run names; else empty.
    """

    predictors: tuple[Predictor, ...]
    steps: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()
    soup: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ending: str = ""

    @property
    def param_count(self) -> int:
        """The number of parameters of all networks, without running statistics."""
        trees = [each.variables["params"] for each in self.predictors]
        return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(trees))


def load(networks: Networks, data_set: DataSet) -> Loaded:
    """Loads the networks.

    Args:
      networks: the networks.
      data_set: the data set. Its changed values replace those of all runs.

    Raises:
      UserError: see `predictor.load`; or two checkpoints of a run are one.
    """
    if networks.runs:
        return _of_runs(networks, data_set)
    size = networks.batch_size or BATCH_SIZE
    names: Sequence[str | None] = networks.names or [None]
    if len(names) == 1:
        names = [*names] * len(networks.weights)
    found = tuple(
        predictor.load(source, name=name, batch_size=size)
        for source, name in zip(networks.weights, names, strict=True)
    )
    return Loaded(found, weights=tuple("; ".join(each.notes) for each in found))


def _of_runs(networks: Networks, data_set: DataSet) -> Loaded:
    predictors, steps, weights, endings = [], [], [], set()
    seen: dict[tuple[Path, int], str] = {}
    for directory, which in networks._pairs():
        found = predictor.restore(directory, which, trust=networks.trust, average=networks.average)
        if (other := seen.setdefault((directory, found.step), which)) != which:
            raise errors.UserError(
                f"--checkpoint {other} and {which} of {directory} are both step {found.step}; "
                "leave one of them out"
            )
        usual = found.plan.eval.weights
        found = _with_changes(found, data_set)
        predictors.append(
            predictor.of_parts(
                *(found.plan, found.description, found.objective, found.variables),
                batch_size=networks.batch_size or found.plan.eval.batch_size,
            )
        )
        steps.append(found.step)
        weights.append(found.title)
        endings.add("" if found.weights == usual else found.weights)
    return Loaded(tuple(predictors), tuple(steps), tuple(weights), ending="".join(sorted(endings)))


def _with_changes(found: Restored, data_set: DataSet) -> Restored:
    """Returns a checkpoint with the changed values of the data set in its plan.

    All keys of the set's place are replaced. Those of the run may name a directory that is gone.
    """
    if not data_set.changed:
        return found
    paths = {*data_set.changed, *of_run.PLACE} if not data_set.runs else {*data_set.changed}
    names = [path.removeprefix("data.") for path in paths]
    values = {name: getattr(data_set.keys, name) for name in names}
    keys = of_run.checked(dataclasses.replace(found.plan.data, **values))
    return found.with_plan(dataclasses.replace(found.plan, data=keys))


def _outside(networks: Networks, directory: str) -> AbstractContextManager[None]:
    """Returns a context that imports no module of a work directory or of a data set."""
    if networks.trust:
        return contextlib.nullcontext()
    received = [workdir.load_plan(path).data.directory for path in networks.runs]
    return imports.outside([*map(str, networks.runs), *received, directory])
