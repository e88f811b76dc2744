"""The form of a built-in augmentation: a frozen dataclass whose fields are its options.

    @dataclasses.dataclass(frozen=True)
    class Invert(Operation):
        '''Inverts images at random.'''

        stage = "bytes"
        probability: float = schema.key(0.5, "share of the images", SHARE)

        def make(self, description):
            def change(key, images):
                ...
            return on_images(change)

`names.TABLE` gives it the name that a config uses.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from cnn_jax import contracts, errors, schema

Stage = Literal["bytes", "normalised"]
"""The pixels that an augmentation takes: stored ones, or normalised by mean and deviation.

Stored pixels are uint8 from 0 to 255, or float32 from 0 to 1, as `Description.peak` tells.
"""

SHARE = schema.within_floats(0, 1)
"""Allows probabilities and shares."""


@dataclasses.dataclass(frozen=True)
class Operation(abc.ABC):
    """Built-in augmentation; its fields, declared with `schema.key`, are its options.

    Attributes:
      stage: 'bytes' or 'normalised', the pixels that it takes and returns.
    """

    stage: ClassVar[Stage] = "bytes"

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; empty if they are allowed."""
        return ""

    @abc.abstractmethod
    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation of a data set, `(key, batch) -> batch`; traceable.

        Raises:
          UserError: the augmentation is not for images of this data set.
        """


def on_images(change: Callable[[jax.Array, jax.Array], jax.Array]) -> contracts.Augmentation:
    """Returns the augmentation that replaces the images by `change(key, images)`."""
    return lambda key, batch: {**batch, "image": change(key, batch["image"])}


def on_share(
    probability: float, change: Callable[[jax.Array, jax.Array], jax.Array]
) -> contracts.Augmentation:
    """Returns the augmentation that applies `change` to each image with a probability."""

    def changed(key: jax.Array, images: jax.Array) -> jax.Array:
        choice, noise = jax.random.split(key)
        chosen = jax.random.bernoulli(choice, probability, (images.shape[0], 1, 1, 1))
        return jnp.where(chosen, change(noise, images), images)

    return on_images(changed)


def span(least: float, most: float) -> schema.Check:
    """Allows two numbers from `least` to `most`, the first not above the second."""

    def check(values: tuple[float, ...]) -> str:
        if len(values) == 2 and least <= values[0] <= values[1] <= most:
            return ""
        return f"two numbers with {least:g} <= smallest <= largest <= {most:g}"

    return check


def require_bytes(description: contracts.Description, name: str) -> None:
    """Checks that the stored pixels are uint8.

    Raises:
      UserError: they are float32.
    """
    if description.peak != 255:
        raise errors.UserError(
            f"data.augment {name!r} is for uint8 images, and those of this data set are "
            "floating-point numbers; store pixels from 0 to 255 as uint8, or leave it out"
        )


def require_colours(description: contracts.Description, name: str) -> None:
    """Checks that images have one channel, grey, or three, red, green and blue.

    Raises:
      UserError: they have another number of channels.
    """
    channels = description.input_shape[2]
    if channels not in (1, 3):
        raise errors.UserError(
            f"data.augment {name!r} is for images of 1 or 3 channels, and these have {channels}; "
            "leave it out, or set data.channels"
        )


def shares(values: tuple[float, ...]) -> str:
    """Allows any count of numbers from 0 to 1."""
    return "" if all(0 <= value <= 1 for value in values) else "numbers in [0, 1]"


def fill_of(
    fill: tuple[float, ...], description: contracts.Description, name: str
) -> tuple[float, ...] | None:
    """Returns the option `fill`, in [0, 1], as a stored pixel; None if it is empty.

    Raises:
      UserError: it has neither one number nor one for each channel.
    """
    channels = description.input_shape[2]
    if len(fill) not in (0, 1, channels):
        raise errors.UserError(
            f"data.augment {name!r} fill has {len(fill)} numbers; give one, or one for each of "
            f"the {channels} channels"
        )
    return tuple(description.peak * share for share in fill) or None


def growing(values: tuple[float, ...]) -> str:
    """Allows two finite numbers greater than 0, the first not above the second."""
    if len(values) == 2 and 0 < values[0] <= values[1] < math.inf:
        return ""
    return "two numbers with 0 < smallest <= largest"


def pair(least: float, most: float) -> schema.Check:
    """Allows two numbers from `least` to `most`, in any order."""

    def check(values: tuple[float, ...]) -> str:
        if len(values) == 2 and all(least <= value <= most for value in values):
            return ""
        return f"two numbers in [{least:g}, {most:g}]"

    return check
