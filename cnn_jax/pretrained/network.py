"""Network of `models` without its number of classes, and the shapes of its variables."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from cnn_jax import errors, limits, models

Path = tuple[str, ...]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Network:
    """Network whose number of classes is not known yet.

    Attributes:
      name: its name in `models`.
      input_shape: height, width and channels of its images.
      options: fields that differ from the variant's, and `dtype`, as in `models.create`.
    """

    name: str
    input_shape: tuple[int, int, int]
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls, name: str, input_shape: tuple[int, int, int] | None, options: Mapping[str, Any]
    ) -> "Network":
        """Returns network `name` for images of a given shape.

        Args:
          name: the network.
          input_shape: of the images; None for the shape that the network was published for.
          options: fields that differ from the variant's.

        Raises:
          UserError: the network is unknown, or `input_shape` is not three positive integers or has
            more than `limits.MAX_INPUT_VALUES` values.
        """
        return cls(name, _checked(input_shape or models.input_shape(name)), options)

    def create(self, num_classes: int) -> nn.Module:
        """Returns the module, with `num_classes` logits."""
        return models.create(self.name, num_classes=num_classes, **self.options)

    def shapes(self, num_classes: int) -> dict[Path, Shape]:
        """Returns the shape of each variable by its path, in `init`'s order of creation.

        Raises:
          UserError: the network has more than `limits.MAX_MODULES` modules.
        """
        return dict(_variable_shapes(self.create(num_classes), self.input_shape))

    def images(self) -> jax.Array:
        """Returns a black image `[1, H, W, C]` float32 of the input shape, for `init`."""
        return jnp.zeros((1, *self.input_shape))

    def with_options(self, **options: Any) -> "Network":
        """Returns the network with further options."""
        return dataclasses.replace(self, options={**self.options, **options})


def _checked(input_shape: Any) -> tuple[int, int, int]:
    try:
        height, width, channels = map(operator.index, input_shape)
    except (TypeError, ValueError):
        height = width = channels = 0
    if min(height, width, channels) < 1:
        raise errors.UserError(
            "input_shape must be height, width and channels, such as (224, 224, 3), got "
            f"{input_shape!r}"
        )
    check_input_size(height, width, channels)
    return height, width, channels


def check_classes(num_classes: int) -> None:
    """Checks the number of classes.

    Raises:
      UserError: it is negative or more than `limits.MAX_CLASSES`.
    """
    if not 0 <= num_classes <= limits.MAX_CLASSES:
        raise errors.UserError(
            f"{num_classes!r:.30} classes are not allowed; allowed are 0 to the limit MAX_CLASSES "
            f"of cnn_jax/limits.py, {limits.MAX_CLASSES:,}"
        )


def check_input_size(height: int, width: int, channels: int) -> None:
    """Checks that images of a network are not too large.

    Raises:
      UserError: they have more than `limits.MAX_INPUT_VALUES` values.
    """
    if height * width * channels > limits.MAX_INPUT_VALUES:
        raise errors.UserError(
            f"an input of {height!r:.30} x {width!r:.30} x {channels!r:.30} (height x width x "
            "channels) has more values than the limit MAX_INPUT_VALUES of cnn_jax/limits.py, "
            f"{limits.MAX_INPUT_VALUES:,}; choose smaller images"
        )


# Loading asks several times; tracing a large network takes seconds.
@functools.lru_cache(maxsize=8)
def _variable_shapes(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[Path, Shape]:
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    found: dict[Path, Shape] = {}

    modules = itertools.count(1)

    def count(call: Callable[..., Any], args: Any, kwargs: Any, _: Any) -> Any:
        if next(modules) > limits.MAX_MODULES:
            raise errors.UserError(
                f"the network {type(model).__name__} has more modules than the limit MAX_MODULES "
                f"of cnn_jax/limits.py, {limits.MAX_MODULES:,}; choose smaller options"
            )
        return call(*args, **kwargs)

    def init(images: jax.Array) -> None:
        # The shapes are recorded during tracing because `eval_shape` returns sorted dictionaries.
        with nn.intercept_methods(count):
            variables = model.init(jax.random.key(0), images, train=False)
        flat = traverse_util.flatten_dict(variables)
        found.update({path: leaf.shape for path, leaf in flat.items()})

    jax.eval_shape(init, images)
    return found
