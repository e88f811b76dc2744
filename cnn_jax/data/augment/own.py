"""Augmentations of the user's own, which `data.augment` names as 'module:attribute'."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import jax
import numpy as np

from cnn_jax import contracts, errors
from cnn_jax.data import dtypes
from cnn_jax.data.augment.operation import Stage
from cnn_jax.runtime import imports

KEY = "data.augment"
_STAGES: tuple[Stage, ...] = get_args(Stage)


def load(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Imports the factory of an augmentation: `factory(description, **options)`.

    Raises:
      UserError: it cannot be imported or called, or does not take the options.
    """
    factory = imports.load(name, KEY)
    if not callable(factory):
        raise errors.UserError(
            f"{KEY} {name!r} is {factory!r}, which cannot be called; name a function "
            "(description, **options) -> ((key, batch) -> batch)"
        )
    try:
        inspect.signature(factory).bind(None, **options)
    except TypeError as error:
        raise errors.UserError(
            f"{KEY} {name!r} is called as factory(description, **options) with the options "
            f"{dict(options)}, and does not take them: {error}"
        ) from error
    except ValueError:  # Some compiled functions have no signature.
        pass
    return factory


def make(
    name: str, options: Mapping[str, Any], description: contracts.Description
) -> tuple[Stage, contracts.Augmentation]:
    """Returns an augmentation and its attribute `stage`, which is 'normalised' by default.

    Raises:
      UserError: as for `load`, or the factory returns no function, or the stage is unknown.
    """
    factory = load(name, options)
    made = factory(description, **options)
    stage = getattr(made, "stage", getattr(factory, "stage", "normalised"))
    if stage not in _STAGES:
        raise errors.unknown(f"stage of {KEY} {name!r}", stage, _STAGES)
    if not callable(made):
        raise errors.UserError(
            f"{KEY} {name!r} returns {made!r} for (description, **options); it must return a "
            "function (key, batch) -> batch"
        )
    return stage, made


def check_results(
    made: Sequence[tuple[str, Stage, contracts.Augmentation]], description: contracts.Description
) -> None:
    """Checks that augmentations return batches with the fields, shapes and dtypes they got.

    They are traced by `jax.eval_shape`; nothing is computed.

    Args:
      made: the name, stage and function of each augmentation, in the order of application.
      description: the data set.

    Raises:
      UserError: the result is no batch, or a field is missing or has another shape or dtype.
    """
    shape = (2, *description.input_shape)
    batch: Any = {
        "image": jax.ShapeDtypeStruct(shape, dtypes.of_peak(description.peak)),
        "label": jax.ShapeDtypeStruct(shape[:1], np.int32),
        "weight": jax.ShapeDtypeStruct(shape[:1], np.float32),
    }
    key = jax.eval_shape(jax.random.key, 0)
    for stage in _STAGES:
        if stage == "normalised":
            batch = {**batch, "image": jax.ShapeDtypeStruct(shape, np.float32)}
        for name, own_stage, augmentation in made:
            if own_stage == stage:
                batch = _result(augmentation, key, batch, f"{KEY} {name!r}")


def _result(
    augmentation: contracts.Augmentation, key: Any, batch: Any, title: str
) -> dict[str, Any]:
    """Returns the shapes and dtypes of an augmentation's result, after checking them."""
    try:
        found = jax.eval_shape(augmentation, key, batch)
    except Exception as error:
        error.add_note(f"raised by {title}, traced with a batch of 2")
        raise
    _check_form(title, batch, found)
    return found


def _check_form(title: str, given: Mapping[str, Any], found: Any) -> None:
    if not isinstance(found, dict):
        kind = "an array" if hasattr(found, "shape") else type(found).__name__
        raise errors.UserError(
            f"{title} returns {kind}; it must return a batch, a dictionary with the fields "
            f"{', '.join(given)}, such as {{**batch, 'image': image}}"
        )
    for field, expected in given.items():
        now = found.get(field)
        if _form(now) != _form(expected):
            got = "is missing" if now is None else f"is {_form(now)}"
            raise errors.UserError(
                f"{title} must keep shape and dtype of each field: for a batch of 2, {field!r} "
                f"{got}, and it was {_form(expected)}; return {{**batch, 'image': image}} with "
                "image.astype(batch['image'].dtype)"
            )


def _form(array: Any) -> str:
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    return type(array).__name__ if shape is None else f"{list(shape)} {dtype}"
