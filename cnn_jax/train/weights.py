"""Weights that a run can start from: published ones, or those of a work directory.

`find` reads them. `Weights.fitted` changes them to the classes and the images of a run.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax import errors, predictor, pretrained
from cnn_jax.contracts import Description, Objective
from cnn_jax.data import crops
from cnn_jax.plan import GIVEN, Data, Plan
from cnn_jax.pretrained import convert, heads, source
from cnn_jax.pretrained.network import Network
from cnn_jax.pretrained.record import Record
from cnn_jax.pretrained.source import Checkpoint
from cnn_jax.runs import workdir
from cnn_jax.runtime import files, imports, patterns

_KEY = "init.weights"
# Options that save memory and change no value; a run does not take them from another one.
_OF_MEMORY = ("remat",)

Arrays = Mapping[str, np.ndarray]
"""Variables by their path, such as 'params/conv1/kernel' and 'batch_stats/bn1/mean'."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Weights for the classes and the images of a run.

    Attributes:
      variables: the arrays.
      new: the paths of the head that the weights lack, because their classes are others.
      notes: a sentence for each change and for each choice between parts of a file.
    """

    variables: Arrays
    new: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights with their network and the preprocessing that belongs to them.

    Attributes:
      checkpoint: the weights of a network that has a name; else None.
      network: this network, with the options that the weights need; else None.
      overrides: the options of the run's network, and its dtype.
      prefix: the prefix to remove from the names of the weights; '' for the automatic choice.
      variables: the weights of a run that was made with an objective object; else empty.
      preprocessing: the preprocessing in evaluation, without the names of classes.
      input_size: height and width of the images in training.
      resize: the value of `data.resize`.
      eval_crop: the value of `data.eval_crop`.
      class_names: the classes of the run; None for published weights, whose classes are compared by
        their number.
    """

    checkpoint: Checkpoint | None
    network: Network | None
    overrides: Mapping[str, Any]
    prefix: str
    variables: Arrays
    preprocessing: pretrained.Preprocessing
    input_size: tuple[int, int]
    resize: str
    eval_crop: str
    class_names: tuple[str, ...] | None = None

    def fitted(self, input_shape: tuple[int, int, int], class_names: tuple[str, ...]) -> Fitted:
        """Returns the weights for a run; its head is left out if the classes are others.

        Args:
          input_shape: height, width and channels of the run's images in training. Some weights are
            changed to them; `pretrained.fitting.adapt` has the rules.
          class_names: the classes of the run.

        Raises:
          UserError: the weights do not fit the network.
        """
        if self.checkpoint is None:
            return Fitted(self.variables)
        found, network = self.checkpoint.fitted(input_shape, self.overrides, self.prefix)
        there, wanted = heads.num_classes(network, found.state_dict), len(class_names)
        others = self.class_names is not None and self.class_names != class_names
        if there is None or (there == wanted and not others):
            variables = convert.to_variables(network, found.state_dict, wanted)
            return Fitted(by_path(variables), notes=found.notes)
        flat = heads.with_zero_head(network, found.state_dict, wanted)
        head = _head(network)
        kept = {"/".join(path): array for path, array in flat.items()}
        has = f"a head for {'other' if there == wanted else there} classes" if there else "no head"
        note = f"the head for {wanted} classes is new; the weights have {has}"
        return Fitted(
            {path: array for path, array in kept.items() if path not in head},
            head,
            (*found.notes, note),
        )


def find(plan: Plan, objective: Objective | None = None) -> Weights:
    """Reads the weights that `init.weights` names.

    Args:
      plan: the plan; an empty `model.name` stands for the network of the weights.
      objective: the objective that `train.run` received, in place of the section `model`.

    Raises:
      UserError: the weights are missing, damaged, or not those of the network; or they are those of
        a run whose network is code that the plan does not name.
    """
    directory = files.local(plan.init.weights, _KEY)
    with _named(plan.init.weights):
        if is_run(directory):
            return _of_run(plan, workdir.last_phase(directory), objective)
        return _published(plan, objective)


def is_run(directory: Path) -> bool:
    """Returns True for a work directory, and False for published weights."""
    parts = (workdir.DATASET, workdir.CHECKPOINTS)
    directory = workdir.last_phase(directory)
    return source.is_directory(directory) and any(
        os.path.lexists(directory / name) for name in parts
    )


def by_path(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of variables by their path, such as 'params/conv1/kernel'."""
    leaves = jax.tree.leaves_with_path(dict(variables))
    return {patterns.path(keys): leaf for keys, leaf in leaves}


def _published(plan: Plan, objective: Objective | None) -> Weights:
    if imports.is_reference(plan.model.name):
        raise errors.UserError(
            "it is no work directory, and published weights are for networks of cnn_jax, got "
            f"model.name {plan.model.name!r}; leave init.weights empty, or name a work directory"
        )
    name, overrides = _wanted(plan, objective)
    place, chosen = source.split(plan.init.weights)
    prefix = chosen.get("prefix", "")
    checkpoint = source.find(place, name or None, chosen.get("state", ""))
    found, network = checkpoint.fitted(None, overrides, prefix)
    prepare = found.preprocessing(network, 0, asked=False)
    return Weights(
        checkpoint,
        network,
        overrides,
        prefix,
        {},
        prepare,
        input_size=prepare.input_shape[:2],
        resize=prepare.interpolation,
        eval_crop="centre",
    )


def _of_run(plan: Plan, directory: Path, objective: Objective | None) -> Weights:
    """Returns the weights of a run's best checkpoint, by its `eval.weights` raw or averaged."""
    options = workdir.load_plan(directory)
    is_given = options.train.objective == GIVEN
    name, overrides = ("", dict[str, Any]()) if is_given else _wanted(plan, objective)
    if not is_given:  # Before the network of the run, which may be code, is imported.
        _check_name(options.model.name, name, is_needed=objective is None)
    found = predictor.restore(directory, objective=objective if is_given else None)
    description = found.description
    variables = {path: np.asarray(leaf) for path, leaf in by_path(found.variables).items()}
    checkpoint, network = None, None
    if not is_given:
        checkpoint = Checkpoint(
            str(directory),
            options.model.name,
            {path.replace("/", "."): array for path, array in variables.items()},
            record=_record(options, description),
        )
        _, network = checkpoint.fitted(None, overrides)
    return Weights(
        checkpoint,
        network,
        overrides,
        "",
        {} if checkpoint else variables,
        _preprocessing(options.data, description),
        input_size=description.input_shape[:2],
        resize=options.data.resize,
        eval_crop=options.data.eval_crop,
        class_names=description.class_names,
    )


def _wanted(plan: Plan, objective: Objective | None) -> tuple[str, dict[str, Any]]:
    """Returns name and options of the run's network; nothing where an objective replaces it."""
    if objective is not None:
        return "", {}
    return plan.model.name, {"dtype": plan.model.dtype, **plan.model.options}


def _check_name(there: str, wanted: str, *, is_needed: bool) -> None:
    """Checks the network of a run.

    Args:
      there: its name.
      wanted: the name in the plan; empty for any.
      is_needed: True if the network of the plan becomes that of the run.

    Raises:
      UserError: it is another network, or code that the plan does not name.
    """
    if wanted and wanted != there:
        raise errors.UserError(
            f"it is a run of the network {there!r}, not of {wanted!r}; set model.name={there}, or "
            "leave model.name empty"
        )
    if is_needed and not wanted and imports.is_reference(there):
        raise errors.UserError(
            f"it is a run of the network {there!r}, which is not imported unless the config names "
            f"it; if you trust it, set model.name={there}"
        )


def _record(options: Plan, description: Description) -> Record:
    """Returns the description of a run's network, as files of `pretrained.save` have it."""
    return Record(
        options.model.name,
        description.num_classes,
        description.input_shape,
        {key: value for key, value in options.model.options.items() if key not in _OF_MEMORY},
    )


def _preprocessing(data: Data, description: Description) -> pretrained.Preprocessing:
    """Returns the preprocessing of a run's evaluation; that of 'fit' crops nothing."""
    height, width, _ = description.eval_shape
    crop = crops.eval_crop(crops.of_evaluation(data, description), description.native_size)
    return pretrained.Preprocessing(
        image_size=height,
        resize_size=crop.shorter_side if isinstance(crop, crops.Centre) else min(height, width),
        class_names=(),
        mean=description.mean,
        std=description.std,
        image_width=0 if width == height else width,
    )


def _head(network: Network) -> frozenset[str]:
    """Returns the paths of the variables whose shape depends on the number of classes."""
    one, two = network.shapes(1), network.shapes(2)
    return frozenset("/".join(path) for path, shape in one.items() if two[path] != shape)


@contextlib.contextmanager
def _named(weights: str) -> Iterator[None]:
    """Prepends the key `init.weights` and its value to the message of a `UserError`."""
    try:
        yield
    except errors.UserError as error:
        raise errors.UserError(f"{_KEY} {weights!r}: {error}") from error
