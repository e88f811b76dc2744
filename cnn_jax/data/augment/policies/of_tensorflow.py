"""EfficientNet's policies RandAugment and AutoAugment, as TensorFlow computes them.

Source: `models/official/efficientnet/autoaugment.py` of https://github.com/tensorflow/tpu, which
big_vision's `pp/autoaugment.py` copies.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import contracts, schema
from cnn_jax.data.augment.operation import Operation, Stage, require_bytes, require_colours
from cnn_jax.data.augment.policies import layers, sub_policies
from cnn_jax.data.augment.policies.operations import Chosen, Library

NAMES = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize"),
    *("saturation", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y", "cutout", "solarize_add"),
)
"""The operations of RandAugment, in the order of the source."""

LIBRARY = Library("tensorflow", "nearest", 128.0)
_LEVELS = 10.0
_RAND_CUTOUT, _RAND_TRANSLATE = 40, 100.0  # pixels, at any size of the image
_AUTO_TRANSLATE = 250.0
_SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def arguments(name: str, level: float, translate: float) -> np.ndarray:
    """Returns the argument of an operation, then the negated one, `[2]` float32.

    Posterize keeps at least one bit, because TensorFlow shifts bytes by at most 7. At level 10,
    solarize has the threshold 256. It overflows to 0 in uint8, so that all pixels are inverted.

    Args:
      name: the operation; see `operations.NAMES`.
      level: from 0 to 10.
      translate: pixels of a translation at level 10.
    """
    share = level / _LEVELS
    value = {
        "posterize": max(1, int(share * 4)),
        "solarize": int(share * 256) % 256,
        "solarize_add": int(share * 110),
        "cutout": int(share * _RAND_CUTOUT),
        "rotate": share * 30,
        "shear_x": share * 0.3,
        "shear_y": share * 0.3,
        "translate_x": share * translate,
        "translate_y": share * translate,
        **dict.fromkeys(("saturation", "contrast", "brightness", "sharpness"), share * 1.8 + 0.1),
    }.get(name, 0.0)
    return np.array([value, -value if name in _SIGNED else value], np.float32)


@dataclasses.dataclass(frozen=True)
class RandAugmentTf(Operation):
    """EfficientNet's and big_vision's RandAugment: random operations of one level.

    Source: Cubuk et al. 2019, arXiv:1909.13719; `distort_image_with_randaugment`.
    """

    stage: ClassVar[Stage] = "bytes"
    num_layers: int = schema.key(2, "operations for each image", schema.at_least(1, 101))
    magnitude: int = schema.key(10, "their level, from 0 to 10", schema.within(0, 11))

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        require_bytes(description, "rand_augment_tf")
        require_colours(description, "rand_augment_tf")
        return layers.augmentation(self.draw, LIBRARY, NAMES)

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Chosen:
        """Draws the operations of images of a shape, `[L, B]`; traceable."""
        first, second, third = jax.random.split(key, 3)
        size = (self.num_layers, shape[0])
        places = jax.random.randint(first, size, 0, len(NAMES))
        each = [arguments(name, self.magnitude, _RAND_TRANSLATE) for name in NAMES]
        table = np.stack(each)[:, None]
        chosen = layers.with_table(NAMES, table, places, jnp.zeros_like(places), second)
        centre = jax.random.randint(third, (*size, 2), 0, jnp.array(shape[1:3]))
        return chosen._replace(centre=centre)


@dataclasses.dataclass(frozen=True)
class AutoAugmentTf(Operation):
    """EfficientNet's AutoAugment, policy v0: a random sub-policy of two operations.

    Source: Cubuk et al. 2018, arXiv:1805.09501; `distort_image_with_autoaugment`.
    """

    stage: ClassVar[Stage] = "bytes"

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        require_bytes(description, "auto_augment_tf")
        require_colours(description, "auto_augment_tf")
        names = layers.names_of(sub_policies.TABLES["v0"])
        return layers.augmentation(self.draw, LIBRARY, names)

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Chosen:
        """Draws the operations of images of a shape, `[2, B]`; traceable."""

        def values(name: str, level: int) -> np.ndarray:
            return arguments(name, level, _AUTO_TRANSLATE)

        return layers.with_sub_policies(sub_policies.TABLES["v0"], values, key, shape[0])
