"""The teacher of a run: the network of another run, `distill.teacher`, that it learns from."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from cnn_jax import errors, objectives, plan, predictor
from cnn_jax.contracts import Description, Variables
from cnn_jax.evaluators.of_predictor import check_classes
from cnn_jax.objectives import Teacher
from cnn_jax.plan import Plan
from cnn_jax.runtime import files

_KEY = "distill.teacher"


def check(options: Plan) -> None:
    """Checks that the teacher's run can be opened; reads no checkpoint.

    Raises:
      UserError: the run cannot be opened.
    """
    if options.distill.teacher:
        with _named(options):
            predictor.describe(_directory(options))


def find(options: Plan, description: Description) -> Teacher | None:
    """Returns the teacher of a run without its variables, or None if it has no teacher.

    Its `scale` and `shift` convert images from the normalisation of the run to the teacher's.

    Args:
      options: the config of the run.
      description: the data set of the run.

    Raises:
      UserError: there is no such run, it has other classes, or its images have another size.
    """
    if not options.distill.teacher:
        return None
    with _named(options):
        other, theirs, objective = predictor.describe(_directory(options))
        check_classes(theirs.class_names, description.class_names)
    if theirs.input_shape != description.input_shape:
        raise errors.UserError(
            f"{_KEY} {options.distill.teacher!r} was trained on images of {_size(theirs)}, and "
            f"this run has {_size(description)} (height x width x channels); set data.image_size, "
            "data.image_width and data.channels to those of the teacher, or train another teacher"
        )
    network = plan.to_dict(other)["model"]
    pairs = list(zip(description.mean, theirs.mean, description.std, theirs.std, strict=True))
    return Teacher(
        predict=objective.predict,
        shapes=objectives.shapes(objective, theirs.input_shape),
        scale=tuple(own / std for _, _, own, std in pairs),
        shift=tuple((own - mean) / std for own, mean, _, std in pairs),
        title=json.dumps([network, dataclasses.asdict(theirs)], sort_keys=True),
    )


def variables(options: Plan) -> Variables:
    """Returns the variables of the teacher's best checkpoint.

    The `eval.weights` of the teacher's run selects the raw weights or their average.

    Raises:
      UserError: there is no such run or checkpoint, or it is damaged.
    """
    with _named(options):
        return predictor.restore(_directory(options)).variables


@contextlib.contextmanager
def _named(options: Plan) -> Iterator[None]:
    """Prepends the key `distill.teacher` and its value to the message of a `UserError`."""
    try:
        yield
    except errors.UserError as error:
        raise errors.UserError(f"{_KEY} {options.distill.teacher!r}: {error}") from error


def _directory(options: Plan) -> Path:
    return files.local(options.distill.teacher, _KEY)


def _size(description: Description) -> str:
    return "x".join(map(str, description.input_shape))
