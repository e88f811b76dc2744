"""Predictors of work directories, of published weights, and of the parts of a run."""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors, limits, losses, objectives, pretrained
from cnn_jax.contracts import Description, Objective, Predict, Variables
from cnn_jax.data import crops, dtypes, pixels
from cnn_jax.objectives import Classification, averaged, eval_size
from cnn_jax.plan import GIVEN, Loss, Plan
from cnn_jax.predictor.predicting import BATCH_SIZE, Predictor, Preprocessing
from cnn_jax.pretrained.network import check_input_size
from cnn_jax.pretrained.source import hub_hint, hub_repository, is_directory, is_file, split
from cnn_jax.runs import checkpoint, environment, workdir
from cnn_jax.runtime import files, imports, sharding
from cnn_jax.runtime.sharding import Layout


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint of a run.

    Attributes:
      plan: the config of the run.
      description: the description of its data set.
      objective: its network, and the loss that it was trained with.
      variables: parameters and running statistics.
      step: the step of the checkpoint.
      layout: the devices.
      weights: 'raw' if the variables are those after the step, 'average' if they are the average
        of the section `ema`.
    """

    plan: Plan
    description: Description
    objective: Objective
    variables: Variables
    step: int
    layout: Layout
    weights: str = averaged.RAW

    @property
    def title(self) -> str:
        """Text that names the weights; empty for a run without an average."""
        return averaged.title(self.plan, self.weights)

    @property
    def predict(self) -> Predict:
        """The network in evaluation mode."""
        return self.objective.predict

    def with_plan(self, plan: Plan) -> "Restored":
        """Returns the checkpoint with another plan, for evaluation on other data or another size.

        Args:
          plan: the plan of the run with other values in the section `data`.

        Raises:
          UserError: the network's parameters depend on the size of the images.
        """
        description = self.description
        if plan.data.eval_image_size != self.plan.data.eval_image_size:
            description = dataclasses.replace(description, eval_size=plan.data.eval_size)
            check_input_size(*description.eval_shape)
            eval_size.check(self.objective, description)
        return dataclasses.replace(self, plan=plan, description=description)


def restore(
    directory: str | Path,
    which: str = "best",
    *,
    objective: Objective | None = None,
    trust: bool = False,
    average: bool | None = None,
) -> Restored:
    """Returns a checkpoint of a run, or of the last phase of a run in phases.

    Only the variables that are asked for are read.

    Args:
      directory: the work directory.
      which: the checkpoint: 'best' by validation, 'last' or a step.
      objective: the objective of a run that was made with `train.run(objective=...)`.
      trust: True to import modules that the run's config names also from the work directory and
        from `data.directory`. By default, these are data, never code.
      average: True for the average of the weights (`ema`), False for those after the step; by
        default as the run's `eval.weights` says.

    Raises:
      UserError: there is no such run or checkpoint, it is damaged or not finite, it has no average,
        the objective is missing, or the config names a module that is not trusted.
      NotImportableError: the run's network or loss cannot be imported. The message names the
        directory and the command of the run's last start.
    """
    directory = workdir.last_phase(files.local(directory, "directory"))
    plan, description, objective = describe(directory, objective=objective, trust=trust)
    weights = averaged.choose(plan, average, str(directory))
    layout = sharding.make_layout()
    checkpoints = directory / workdir.CHECKPOINTS
    step = checkpoint.choose(checkpoints, which)
    like = objectives.abstract_variables(objective, description.input_shape, layout)
    variables = _variables(checkpoints, step, like, weights)
    _check_finite(variables, f"the checkpoint of step {step} in {directory}")
    return Restored(plan, description, objective, variables, step, layout, weights)


def describe(
    directory: Path, *, objective: Objective | None = None, trust: bool = False
) -> tuple[Plan, Description, Objective]:
    """Returns the config of a run, its data set and its objective, without a checkpoint.

    Args:
      directory: the work directory.
      objective: see `restore`.
      trust: see `restore`.

    Raises:
      UserError: see `restore`.
    """
    directory = workdir.last_phase(directory)
    plan = workdir.load_plan(directory)
    description = workdir.load_description(directory)
    with workdir.outside(directory, plan, trust=trust):
        return plan, description, objective or _objective(directory, plan, description)


def _variables(checkpoints: Path, step: int, like: dict[str, Any], weights: str) -> dict[str, Any]:
    """Reads the variables of a checkpoint, and nothing else of it."""
    if weights == averaged.RAW:
        return checkpoint.restore(checkpoints, step, like).state
    wanted = {"extra": {averaged.AVERAGE: like}}
    return checkpoint.restore(checkpoints, step, wanted).state["extra"][averaged.AVERAGE]


def _check_finite(variables: Variables, place: str) -> None:
    """Checks that parameters and statistics are finite. Their outputs can be finite nevertheless.

    Raises:
      UserError: an array has a value that is NaN or infinite.
    """
    for path, leaf in jax.tree.leaves_with_path(dict(variables)):
        if not leaf.is_fully_addressable or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        if bad := leaf.size - np.count_nonzero(np.isfinite(np.asarray(leaf))):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise errors.UserError(
                f"{place} is of a run that diverged: {name!r} has {bad:,} of {leaf.size:,} values "
                "that are NaN or infinite; use another checkpoint"
            )


def load(
    source: str | Path,
    which: str | None = None,
    *,
    name: str | None = None,
    objective: Objective | None = None,
    batch_size: int = BATCH_SIZE,
    trust: bool = False,
    average: bool | None = None,
) -> Predictor:
    """Returns the predictor of a run or of published weights.

    Args:
      source: a work directory; or published weights as `pretrained.load` takes them: a file, a
        directory with timm's config.json, or a name on the Hub such as 'resnet50.a1_in1k' or
        'timm/resnet50.a1_in1k'. An existing directory or file is preferred to a name on the Hub.
      which: the checkpoint of a run: 'best' by validation (the default), 'last' or a step.
      name: the network of a weights file that does not name its own.
      objective: the objective that was given to `train.run(objective=...)`.
      batch_size: the number of images that are computed together.
      trust: see `restore`; for runs only.
      average: see `restore`; for runs only.

    Raises:
      UserError: `source` is neither a run nor weights, or an argument does not apply to it. See
        also `restore` and `pretrained.load`.
    """
    path = files.local(source, "source")
    source = path if str(source).startswith("~") else source
    if _is_published(source):
        given = {"which": which, "objective": objective, "average": average}
        _check_absent(given, f"is for a work directory, and {source} is published weights")
        return _published(source, name, batch_size)
    _check_absent({"name": name}, f"is for a file of weights, and {source} is a work directory")
    if isinstance(source, str) and not os.path.lexists(source) and (hint := hub_hint(source)):
        raise errors.UserError(f"{source} is not a work directory: no config.json in it; {hint}")
    found = restore(source, which or "best", objective=objective, trust=trust, average=average)
    check_input_size(*found.description.eval_shape)
    return of_parts(
        found.plan,
        found.description,
        found.objective,
        found.variables,
        batch_size=batch_size,
        notes=averaged.notes(found.plan, found.weights),
    )


def of_parts(
    plan: Plan,
    description: Description,
    objective: Objective,
    variables: Variables,
    *,
    batch_size: int = BATCH_SIZE,
    notes: tuple[str, ...] = (),
) -> Predictor:
    """Returns the predictor of the parts of a run, without a work directory.

    Args:
      plan: the config; its section `data` gives the evaluation crop.
      description: the data set that the network was trained on.
      objective: the network and its loss; `features` and `embed` use its attribute `model`.
      variables: parameters and running statistics.
      batch_size: the number of images that are computed together.
      notes: see `Predictor`.
    """
    keys = crops.of_evaluation(plan.data, description)  # The plan's sizes may be automatic.
    crop = crops.eval_crop(keys, description.native_size)
    return Predictor(
        predict=objective.predict,
        variables=variables,
        preprocessing=EvalPreprocessing(crop, description.mean, description.std),
        input_shape=description.eval_shape,
        class_names=description.class_names,
        model=getattr(objective, "model", None),
        batch_size=batch_size,
        notes=notes,
    )


@dataclasses.dataclass(frozen=True)
class EvalPreprocessing(Preprocessing):
    """Preprocessing of a run's evaluation: crop and normalisation.

    Attributes:
      crop: the evaluation crop, which keeps the dtype.
      mean: of each channel, of pixels in [0, 1].
      std: standard deviation of each channel, likewise.
    """

    crop: crops.Fit | crops.Centre
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the input `[H, W, C]` float32 of an image `[h, w, C]`, uint8 or float32.

        Raises:
          UserError: the image would be scaled to more than `limits.MAX_NATIVE_PIXELS` pixels.
        """
        native = self.crop.native_size if isinstance(self.crop, crops.Fit) else None
        if native not in (None, image.shape[:2]) and math.prod(native) > limits.MAX_NATIVE_PIXELS:
            raise errors.UserError(
                f"the run's images have {native[0]} x {native[1]} pixels (height x width), more "
                "than the limit MAX_NATIVE_PIXELS of cnn_jax/limits.py, "
                f"{limits.MAX_NATIVE_PIXELS:,}; give images of that size"
            )
        return pixels.normalise(self.crop(image), self.mean, self.std, dtypes.peak(image.dtype))

    def undo(self, inputs: np.ndarray | jax.Array) -> np.ndarray:
        """Returns the pixels `[..., H, W, C]` uint8 of inputs; clips values out of range."""
        return pixels.undo(inputs, self.mean, self.std)


def _objective(directory: Path, plan: Plan, description: Description) -> Objective:
    try:
        return objectives.make(plan, description)
    except errors.NotImportableError as error:
        starts = environment.read(directory)
        if not starts:
            raise
        raise errors.NotImportableError(
            f"{error}. The run's environment.json names the directory of each module: "
            f"{starts[-1].get('modules')}; it was started in {starts[-1].get('directory')} by: "
            f"{starts[-1].get('command')}"
        ) from error
    except errors.UserError as error:
        if plan.train.objective == GIVEN or imports.is_reference(plan.model.name):
            raise
        raise workdir.damaged(directory, workdir.CONFIG, error) from error


def _is_published(source: str | Path) -> bool:
    """Returns True for published weights, False for a work directory.

    Both kinds of directories have a config.json. That of timm has an entry 'architecture'.
    """
    path = Path(source)
    if is_directory(path):
        try:
            config = files.read_json(path / workdir.CONFIG, limits.MAX_JSON_BYTES)
        except (OSError, errors.UserError):
            return False  # The error for a work directory says what is missing or damaged.
        return "architecture" in config
    is_name = os.sep not in source if isinstance(source, str) else False
    return os.path.lexists(split(path)[0]) or is_name or is_file(source) or _on_hub(source)


def _on_hub(source: str | Path) -> bool:
    """Returns True for a name on the Hub with a slash, such as 'timm/resnet50.a1_in1k'."""
    return os.sep in str(source) and hub_repository(str(source)) is not None


def _published(source: str | Path, name: str | None, batch_size: int) -> Predictor:
    path = Path(source)
    exists = os.path.lexists(split(path)[0])
    try:
        found = pretrained.load(path if exists else os.fspath(source), name=name)
    except errors.UserError as error:
        if exists or name is not None or is_file(source) or _on_hub(source):
            raise
        raise errors.UserError(f"{error}; {source} is no work directory either") from error
    preparation = found.preprocessing
    return Predictor(
        predict=Classification(found.model, losses.make(Loss())).predict,
        variables=jax.device_put(found.variables),
        preprocessing=preparation,
        input_shape=preparation.input_shape,
        class_names=preparation.class_names,
        model=found.model,
        batch_size=batch_size,
        notes=found.notes,
    )


def _check_absent(given: Mapping[str, object], reason: str) -> None:
    """Raises a UserError for the first argument that is not None."""
    for argument, value in given.items():
        if value is not None:
            raise errors.UserError(f"{argument}={value!r} {reason}; leave it out")
