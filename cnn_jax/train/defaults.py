"""Automatic values of a plan that starts from weights: their network and their preprocessing."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import errors, models, plan
from cnn_jax.data import crops
from cnn_jax.plan import Data, Plan
from cnn_jax.pretrained.network import Network
from cnn_jax.train.weights import Weights

_CLOSE = 1e-3  # mean and deviation of pixels in [0, 1]; a level of 255 is 4e-3


class Contradiction(NamedTuple):
    """Value of a plan that is not that of the weights.

    Attributes:
      key: its name in the section `data`.
      stated: the value of the plan, which is used.
      theirs: the value that belongs to the weights.
    """

    key: str
    stated: Any
    theirs: Any

    def __str__(self) -> str:
        """Returns a sentence that names both values, and how to take that of the weights."""
        path = f"data.{self.key}"
        automatic = plan.keys()[path].automatic
        return (
            f"{path} is {_shown(self.stated)}, that of the weights is {_shown(self.theirs)}; "
            f"{_shown(self.stated)} is used ({path}={automatic!r} takes that of the weights)"
        )


def network(given: Plan, found: Network) -> Plan:
    """Returns a plan with the network of the weights in place of an empty `model.name`.

    Args:
      given: the plan.
      found: the network, with the options that the weights need.

    Raises:
      UserError: the plan names the network, and the weights need other options of it.
    """
    needed = {key: value for key, value in found.options.items() if key != "dtype"}
    if not given.model.name:
        model = dataclasses.replace(given.model, name=found.name, options=needed)
        return dataclasses.replace(given, model=model)
    options = {"dtype": given.model.dtype, **given.model.options}
    if found.create(2) != models.create(given.model.name, num_classes=2, **options):
        raise errors.UserError(
            f"init.weights {given.init.weights!r} belongs to the network {found.name} with the "
            f"options {needed}; set these in the section model, or leave model.name empty"
        )
    return given


def data(keys: Data, found: Weights) -> tuple[Data, list[str]]:
    """Returns the section `data` with the weights' preprocessing in place of automatic values.

    The crop keeps its share of the resized image if the plan has another size than the weights.

    Args:
      keys: the section.
      found: the weights.

    Returns:
      The section, and a sentence for each value of the plan that contradicts the weights.
    """
    keys, wrong = _with_sizes(keys, found)
    prepare = found.preprocessing.adapted(keys.eval_shape)
    theirs: dict[str, Any] = {"mean": prepare.mean, "std": prepare.std}
    # A run that did not scale images can be followed by one whose crops do.
    if found.resize != "pad" or not keys.needs_original:
        theirs["resize"] = found.resize
    # Both crops show the whole image if the weights are for images without a margin.
    size, side = min(keys.eval_shape[:2]), prepare.resize_size
    same = keys.eval_crop == "fit" and side == size
    theirs["eval_crop"] = "fit" if same else found.eval_crop
    for key, value in theirs.items():
        keys, more = _choose(keys, key, value)
        wrong += more
    if keys.eval_crop == "centre" and side >= _least(keys):
        if keys.shorter_side not in (0, side):
            wrong.append(Contradiction("shorter_side", keys.shorter_side, side))
        elif side != round(size / crops.CROP_SHARE):
            keys = dataclasses.replace(keys, shorter_side=side)
    notes = list(map(str, wrong))
    if keys.eval_crop == "centre" and found.preprocessing.squash:
        notes.append(
            "the weights were evaluated on whole images, scaled without their aspect ratio; this "
            "run crops the centre"
        )
    return keys, notes


def _with_sizes(keys: Data, found: Weights) -> tuple[Data, list[Contradiction]]:
    """Replaces automatic sizes and channels; see `data`."""
    (height, width), evaluated = found.input_size, found.preprocessing.input_shape
    wrong = []
    if not keys.image_size:
        width_key = 0 if width == height else width
        keys = dataclasses.replace(keys, image_size=height, image_width=width_key)
    if keys.input_shape[:2] != (height, width):
        stated = keys.input_shape[:2]
        wrong.append(Contradiction("image_size", _size(*stated), _size(height, width)))
    elif evaluated[:2] != (height, width):
        keys, more = _choose(keys, "eval_image_size", evaluated[0])
        wrong += more
    keys, more = _choose(keys, "channels", evaluated[2])
    return keys, wrong + more


def _choose(keys: Data, key: str, theirs: Any) -> tuple[Data, list[Contradiction]]:
    """Replaces an automatic value; returns a contradiction if the plan states another value."""
    stated = getattr(keys, key)
    if stated == plan.keys()[f"data.{key}"].automatic:
        return dataclasses.replace(keys, **{key: theirs}), []
    return keys, [] if _are_equal(stated, theirs) else [Contradiction(key, stated, theirs)]


def _are_equal(stated: Any, theirs: Any) -> bool:
    if isinstance(stated, tuple):
        return len(stated) == len(theirs) and np.allclose(stated, theirs, rtol=0, atol=_CLOSE)
    return bool(stated == theirs)


def _least(keys: Data) -> int:
    """Returns the fewest pixels that `data.shorter_side` may have."""
    least = min(keys.eval_shape[:2])
    if keys.train_crop not in ("random", "centre"):
        return least
    return max(least, min(keys.input_shape[:2]))


def _size(height: int, width: int) -> str:
    return f"{height}x{width}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(f'{number:.4g}' for number in value)})"
    return str(value)
