"""Check that a network accepts a size of images in evaluation that differs from training."""

import contextlib
from typing import Any

import jax

from cnn_jax import errors, objectives
from cnn_jax.contracts import Description, Objective
from cnn_jax.runtime import patterns


def check(objective: Objective, description: Description) -> None:
    """Checks that the network predicts images of evaluation with the parameters of training.

    The network is traced in evaluation mode, and not computed. Auxiliary heads are not called in
    this mode, so their parameters may depend on the size.

    Args:
      objective: the objective with the network.
      description: gives both image sizes. Equal sizes need no check.

    Raises:
      UserError: the network cannot predict images of evaluation with the parameters of training.
    """
    if description.eval_size is None:
        return
    shape = description.eval_shape
    size = f"{shape[0]}x{shape[1]} pixels in evaluation (data.eval_image_size)"
    variables = objectives.shapes(objective, description.input_shape)
    try:
        jax.eval_shape(objective.predict, variables, objectives.abstract_batch(shape))
    except Exception as error:
        reason = _difference(objective, description)
        if reason is None and isinstance(error, errors.UserError):
            raise errors.UserError(f"for images of {size}: {error}") from error
        raise errors.UserError(
            f"the network cannot take images of {size}: {reason or error}; set "
            "data.eval_image_size to 0, or take a network whose parameters do not depend on the "
            "size"
        ) from error


def _difference(objective: Objective, description: Description) -> str | None:
    """Returns text on the first variable whose shape depends on the size; None without one."""
    there, here = _paths(objectives.shapes(objective, description.input_shape)), {}
    with contextlib.suppress(Exception):  # A network may take no images of this size at all.
        here = _paths(objectives.shapes(objective, description.eval_shape))
    for path in sorted(there.keys() & here.keys()):
        if there[path] != here[path]:
            height, width, _ = description.input_shape
            return (
                f"{path} would be {here[path]}, and for the {height}x{width} pixels of training "
                f"it is {there[path]}"
            )
    return None


def _paths(variables: Any) -> dict[str, list[int]]:
    """Returns the shape of each array by its path."""
    leaves = jax.tree.leaves_with_path(variables)
    return {patterns.path(keys): [*leaf.shape] for keys, leaf in leaves}
