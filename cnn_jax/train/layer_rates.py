"""Rates by layer of a run's network: `optim.layer_decay`."""

from collections.abc import Mapping

import optax

from cnn_jax import errors, models, optim
from cnn_jax.contracts import Objective
from cnn_jax.objectives import frozen
from cnn_jax.plan import Plan


def scale(
    optimizer: optax.GradientTransformationExtraArgs,
    plan: Plan,
    objective: Objective,
    input_shape: tuple[int, int, int],
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer with the rates by layer of a plan; the given one if they are off.

    Args:
      optimizer: the optimizer of the parameters that the objective trains.
      plan: the plan.
      objective: the objective.
      input_shape: height, width and channels of the images.

    Raises:
      UserError: the objective has no network, or the layers of its network are unknown.
    """
    if plan.optim.layer_decay == 1:
        return optimizer
    found = depths(objective, input_shape)
    return optim.scale_layers(optimizer, plan.optim.layer_decay, found)


def depths(objective: Objective, input_shape: tuple[int, int, int]) -> Mapping[str, int]:
    """Returns the number of the layer of each module of an objective's network.

    Args:
      objective: the objective.
      input_shape: height, width and channels of the images.

    Raises:
      UserError: the objective has no network, or the layers of its network are unknown.
    """
    model = frozen.network_of(objective)
    if model is None:
        raise errors.UserError(
            "optim.layer_decay needs an objective with the attribute 'model', whose layers it "
            "numbers; set optim.layer_decay to 1 and use optim.rate_factors"
        )
    return models.depths(model, input_shape)
