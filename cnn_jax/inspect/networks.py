"""Networks to inspect without a training: initial parameters by the name of a network."""

import jax
import jax.numpy as jnp

from cnn_jax import losses, models, plan, predictor
from cnn_jax.contracts import Description
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor

_CLASSES = 10


def untrained(name: str, *, seed: int = 0, batch_size: int = 32) -> Predictor:
    """Returns the predictor of a network with initial parameters and ten classes.

    Pixels are normalised with the mean and the standard deviation 0.5.

    Args:
      name: one of `models.names()`.
      seed: the seed of the parameters.
      batch_size: the number of images that are computed together.

    Raises:
      UserError: there is no such network.
    """
    model = models.create(name, num_classes=_CLASSES)
    shape = models.input_shape(name)
    height, width, channels = shape
    settings = plan.read(
        {
            "data.image_size": height,
            "data.image_width": width if width != height else 0,
            "data.channels": channels,
            "data.resize": "bilinear",
        }
    )
    half = (0.5,) * channels
    names = tuple(str(index) for index in range(_CLASSES))
    description = Description(names, None, shape, half, half)

    def init() -> dict[str, object]:
        return dict(model.init(jax.random.key(seed), jnp.zeros((1, *shape)), train=False))

    variables = {"batch_stats": {}, **jax.jit(init)()}
    objective = Classification(model, losses.make(plan.Loss()))
    return predictor.of_parts(settings, description, objective, variables, batch_size=batch_size)
