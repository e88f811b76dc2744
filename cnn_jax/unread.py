"""Config keys that a run does not read because of the values of other keys."""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from cnn_jax import plan
from cnn_jax.plan import Plan
from cnn_jax.runtime import imports

_MOMENTUM = {"optim.name": ("sgd", "rmsprop")}
_ADAM = {"optim.name": ("adam", "adamw")}
_RANDOM_RESIZED = {"data.train_crop": ("random_resized",)}
_STRATIFIED = {"data.split": ("stratified",)}

# For each key: the values of other keys with which it is read. One of these is enough.
_READ_WITH: Mapping[str, Mapping[str, Collection[str]]] = MappingProxyType(
    {
        "optim.momentum": _MOMENTUM,
        "optim.nesterov": _MOMENTUM,
        "optim.b1": _ADAM,
        "optim.b2": _ADAM,
        "optim.rms_decay": {"optim.name": ("rmsprop",)},
        "optim.eps": {"optim.name": ("rmsprop", "adam", "adamw")},
        "optim.schedule.boundary_epochs": {"optim.schedule.name": ("step",)},
        "optim.schedule.decay_epochs": {"optim.schedule.name": ("exponential",)},
        "optim.schedule.decay_factor": {"optim.schedule.name": ("step", "exponential")},
        "data.name": {"data.source": ("idx", "tfds", "auto")},
        "data.crop_padding": {"data.train_crop": ("pad",)},
        "data.crop_scale": _RANDOM_RESIZED,
        "data.crop_ratio": _RANDOM_RESIZED,
        "data.shorter_side": {
            "data.train_crop": ("random", "centre"),
            "data.eval_crop": ("centre",),
        },
        "data.split_shares": _STRATIFIED,
        "data.split_seed": _STRATIFIED,
        "data.split_groups": _STRATIFIED,
        "data.split_folds": _STRATIFIED,
        "data.split_fold": _STRATIFIED,
    }
)


def warnings(given: Plan) -> list[str]:
    """Returns a sentence for each key that has another value than its default and is not read.

    Parts of the user are left out: they read what they want, and `optim.of_plan` refuses the keys
    that a user's optimizer does not read.

    >>> warnings(plan.read({"optim.name": "adam", "optim.nesterov": True}))
    ["optim.nesterov True has no effect with optim.name 'adam', only with sgd, rmsprop"]
    """
    values, keys = plan.flatten(given), plan.keys()
    found = [
        f"{path} {values[path]!r} has no effect {_reason(values, readers)}"
        for path, readers in _READ_WITH.items()
        if values[path] != keys[path].default and not _is_read(values, readers)
    ]
    return [*found, *_without_effect(given)]


def _is_read(values: Mapping[str, object], readers: Mapping[str, Collection[str]]) -> bool:
    return any(
        values[other] in allowed
        or values[other] == plan.GIVEN
        or imports.is_reference(str(values[other]))
        for other, allowed in readers.items()
    )


def _reason(values: Mapping[str, object], readers: Mapping[str, Collection[str]]) -> str:
    return " and ".join(
        f"with {other} {values[other]!r}, only with {', '.join(allowed)}"
        for other, allowed in readers.items()
    )


def _without_effect(given: Plan) -> Iterator[str]:
    """Yields sentences on numbers that leave another key without effect."""
    optim, schedule, epochs = given.optim, given.optim.schedule, given.train.epochs
    if optim.nesterov and optim.name in _MOMENTUM["optim.name"] and not optim.momentum:
        yield "optim.nesterov True has no effect with optim.momentum 0"
    late = [f"{epoch:g}" for epoch in schedule.boundary_epochs if epoch >= epochs]
    if schedule.name == "step" and not given.train.steps and late:
        yield (
            f"optim.schedule.boundary_epochs {', '.join(late)} have no effect in a run of "
            f"{epochs:g} epochs"
        )
