"""Description of an evaluation for its JSON file, and the path of this file."""

import dataclasses
from pathlib import Path
from typing import Any

from cnn_jax.evaluators import ensembles, result_files
from cnn_jax.evaluators.chosen_examples import Chosen
from cnn_jax.evaluators.networks import DataSet, Loaded, Networks
from cnn_jax.evaluators.request import Request


def about(
    given: Networks, request: Request, data_set: DataSet, loaded: Loaded, chosen: Chosen
) -> dict[str, Any]:
    """Returns the description of an evaluation, for its JSON file.

    Args:
      given: the networks as they were named.
      request: the request, with its splits.
      data_set: the data set.
      loaded: the networks, or their soup.
      chosen: the examples.

    Returns:
      'models', 'param_count', 'data', 'split' and 'examples'; and, where they apply,
      'checkpoint_steps', 'weights', 'soup', 'views', 'mean', 'subset', 'left_out' and 'overridden'.
    """
    averaged = request.views or len(loaded.predictors) > 1
    optional = {
        "checkpoint_steps": list(loaded.steps),
        "weights": list(loaded.weights) if any(loaded.weights) else [],
        "soup": dict(loaded.soup),
        "views": request.views,
        "mean": (request.mean or ensembles.MEANS[0]) if averaged else "",
        "subset": request.subset,
        "left_out": chosen.left_out,
        "overridden": dict(data_set.changed) if given.runs else {},
    }
    return {
        "models": list(given.titles),
        "param_count": loaded.param_count,
        "data": data_set.title,
        "split": request.split,
        "examples": len(chosen.examples),
        **{name: value for name, value in optional.items() if value},
    }


def path(given: Networks, request: Request, data_set: DataSet, loaded: Loaded) -> Path | None:
    """Returns the path of the JSON file; None for published weights without `out`.

    Args:
      given: the networks as they were named.
      request: the request, with its splits.
      data_set: the data set.
      loaded: the networks.
    """
    if request.out is not None or not given.runs:
        return request.out
    kind = f"{request.soup} soup" if request.soup else "ensemble"
    words = [
        "" if data_set.runs else data_set.title,
        f"{kind} of {len(given.titles)}" if len(given.titles) > 1 else "",
        request.views.replace("_", "-"),
        "subset" if request.subset else "",
        "calibrated" if request.calibrate else "",
        "corruptions" if request.corruptions else "scores",
    ]
    kept = dataclasses.replace(request, csv=None, confusion=False)
    directory = str(Path(data_set.keys.directory).absolute())
    exact = [given.titles, dataclasses.asdict(kept), dict(data_set.changed), directory]
    which = "-".join(filter(None, (*given.checkpoints, loaded.ending)))
    return given.runs[0] / result_files.name(request.split, words, exact, which)
