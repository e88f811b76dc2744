"""Sweeps over corruptions of runs, published weights and soups, with the result in files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_jax.data import imagenet
from cnn_jax.evaluators import (
    chosen_examples,
    corrupted,
    descriptions,
    networks,
    result_files,
    results_csv,
    soup_networks,
    viewed,
)
from cnn_jax.evaluators import request as requests
from cnn_jax.evaluators.chosen_examples import Chosen
from cnn_jax.evaluators.corrupted import ALEXNET_ERRORS, Sweep
from cnn_jax.evaluators.corruptions import NAMES, SEVERITIES
from cnn_jax.evaluators.networks import Networks
from cnn_jax.evaluators.request import Request
from cnn_jax.evaluators.whole_split import Tell
from cnn_jax.plan import Plan
from cnn_jax.predictor import Predictor
from cnn_jax.runs import workdir
from cnn_jax.runtime import sharding


@dataclasses.dataclass(frozen=True, eq=False)
class Swept:
    """The result of a sweep over corruptions.

    Attributes:
      content: the content of the JSON file.
      sweep: the accuracies.
      predictor: the network, or the soup.
      path: the JSON file; None if the result is not written.
      written: the files that were written.
      unwritten: the reasons why others were not, such as a read-only work directory.
    """

    content: Mapping[str, Any]
    sweep: Sweep
    predictor: Predictor
    path: Path | None
    written: tuple[Path, ...] = ()
    unwritten: tuple[str, ...] = ()


def run(
    given: Networks,
    request: Request,
    settings: Plan | None = None,
    tell: Tell | None = None,
    show: Callable[[Swept], None] | None = None,
) -> Swept:
    """Evaluates one network under each corruption and severity, and writes the result.

    The JSON file has `results`, a row for each corruption and severity; 'mean_error', the mean of
    their errors; `errors`, the mean error of each corruption; and 'mce', the mean corruption error
    relative to AlexNet, for the 15 corruptions and 5 severities on ImageNet's classes. The table
    `request.csv` gets the rows.

    Args:
      given: one network, or the members of a soup.
      request: the request; its `corruptions` are not empty.
      settings: see `networks.open_data`.
      tell: called after each corruption and severity with two counts: measured, to be measured.
      show: called with the result before files are written, on the primary process.

    Raises:
      UserError: see `thorough.run` and `corrupted.sweep`.
    """
    requests.check(given, request)
    data_set = networks.open_data(given, settings)
    asked, request = request, requests.resolved(request, data_set)
    selection = requests.select(asked, request, data_set)
    loaded = networks.load(given, data_set)
    loaded = soup_networks.mix(loaded, given.titles, request, data_set, selection)
    (predictor,) = loaded.predictors
    names = (data_set.class_names, predictor.class_names)
    chosen = chosen_examples.choose(selection.evaluated, *names, None)
    sweep = _sweep(predictor, chosen, request, tell)
    content = {
        **descriptions.about(given, request, data_set, loaded, chosen),
        **_values(sweep, request, predictor.class_names),
    }
    path = descriptions.path(given, request, data_set, loaded)
    found = Swept(content, sweep, predictor, path)
    if not sharding.is_primary():
        return found
    if show is not None:
        show(found)
    return _write(found, request)


def _sweep(predictor: Predictor, chosen: Chosen, request: Request, tell: Tell | None) -> Sweep:
    views = request.make_views()
    return corrupted.sweep(
        predictor if views is None else viewed.with_views(predictor, views),
        chosen,
        Chosen.SPLIT,
        names=request.corruption_names,
        severities=request.severity_numbers,
        seed=request.seed,
        at=request.corrupt or corrupted.PLACES[0],
        tell=tell,
    )


def _values(sweep: Sweep, request: Request, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the values of a sweep for the JSON file."""
    is_whole = set(sweep.corruptions) == set(NAMES) and set(sweep.severities) == set(SEVERITIES)
    of_imagenet = imagenet.readable(class_names) == tuple(imagenet.classes().values())
    return {
        "corrupt": request.corrupt or corrupted.PLACES[0],
        "seed": request.seed,
        "clean": dict(sweep.clean),
        "mean_error": sweep.mean_error,
        **({"mce": sweep.mce(ALEXNET_ERRORS)} if is_whole and of_imagenet else {}),
        "errors": sweep.by_corruption(),
        "results": sweep.rows(),
    }


def _write(found: Swept, request: Request) -> Swept:
    """Writes the files of a sweep, and returns it with those that were and were not written."""
    path, csv = found.path, request.csv
    writers: list[tuple[Path, Callable[[], None]]] = []
    if path is not None:
        writers.append((path, lambda: workdir.save(path.parent, path.name, found.content)))
    if csv is not None:
        rows = [
            results_csv.row({**found.content, **row, "nll": row["loss"]}, [found.predictor])
            for row in found.sweep.rows()
        ]
        writers.append((csv, lambda: results_csv.append(csv, rows)))
    written, unwritten = result_files.write(writers)
    return dataclasses.replace(found, written=written, unwritten=unwritten)
