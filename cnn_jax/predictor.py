"""Predictor: a trained network together with the preprocessing of its images."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from cnn_jax import losses, objectives, pretrained
from cnn_jax.contracts import Description, Outputs, Predict, Variables
from cnn_jax.data import crops, images, pixels
from cnn_jax.objectives import Classification
from cnn_jax.plan import Loss, Plan
from cnn_jax.runs import checkpoint, workdir
from cnn_jax.runtime import sharding
from cnn_jax.runtime.sharding import Layout

_COLOUR = 3


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint of a run.

    Attributes:
      plan: the config of the run.
      description: the description of its data set.
      predict: its network in evaluation mode.
      variables: parameters and running statistics.
      step: the step of the checkpoint.
      layout: the devices.
    """

    plan: Plan
    description: Description
    predict: Predict
    variables: Variables
    step: int
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained network and the preprocessing of its images.

    Attributes:
      predict: the network in evaluation mode.
      variables: parameters and running statistics.
      prepare: turns an image `[h, w, C]` uint8 of any size into an input `[H, W, C]` float32.
      channels: C.
      class_names: the name of each class.
    """

    predict: Predict
    variables: Variables
    prepare: Callable[[np.ndarray], np.ndarray]
    channels: int
    class_names: Sequence[str]

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Returns `[N, K]` float32 for N images `[h, w, C]` uint8 of any sizes."""
        inputs = np.stack([self.prepare(picture) for picture in pictures])
        return np.asarray(jax.nn.softmax(self._outputs(self.variables, inputs)["logits"]))

    def top(self, picture: np.ndarray, top_k: int) -> list[tuple[str, float]]:
        """Returns the `top_k` most probable class names of an image, with their probabilities."""
        (row,) = self.probabilities([picture])
        order = np.argsort(-row, kind="stable")[:top_k]
        return [(self.class_names[index], float(row[index])) for index in order]

    @functools.cached_property
    def _outputs(self) -> Callable[[Variables, np.ndarray], Outputs]:
        return jax.jit(lambda variables, inputs: self.predict(variables, {"image": inputs}))


def restore(directory: Path, which: str = "best") -> Restored:
    """Returns a checkpoint of a run.

    Args:
      directory: the work directory.
      which: the checkpoint: 'best' by validation, 'last' or a step.

    Raises:
      UserError: there is no such run or checkpoint, or it is damaged.
    """
    plan = workdir.load_plan(directory)
    description = workdir.load_description(directory)
    layout = sharding.make_layout()
    objective = objectives.make(plan, description.num_classes)
    checkpoints = directory / workdir.CHECKPOINTS
    step = checkpoint.choose(checkpoints, which)
    like = objectives.abstract_variables(objective, description.input_shape, layout)
    variables = checkpoint.restore(checkpoints, step, like).state
    return Restored(plan, description, objective.predict, variables, step, layout)


def load(directory: Path, which: str = "best") -> Predictor:
    """Returns the predictor of a run; arguments and errors are those of `restore`."""
    found = restore(directory, which)
    description = found.description
    crop = crops.eval_crop(found.plan.data, description.native_size)
    channels = description.input_shape[-1]

    def prepare(picture: np.ndarray) -> np.ndarray:
        picture = crop(images.convert(picture, channels))
        return pixels.normalise(picture, description.mean, description.std)

    return Predictor(found.predict, found.variables, prepare, channels, description.class_names)


def load_published(source: str | Path, name: str | None = None) -> Predictor:
    """Returns the predictor of published weights.

    Args:
      source: the source of the weights; see `pretrained.load`.
      name: the network of a file that does not name its own.

    Raises:
      UserError: see `pretrained.load`.
    """
    found = pretrained.load(source, name=name)
    predict = Classification(found.model, losses.make(Loss())).predict
    names = found.preprocessing.class_names
    return Predictor(predict, found.variables, found.preprocessing, _COLOUR, names)
