"""Compiled functions of a run, shared by the runs of one process that need the same ones.

The learning rates of a call are an operand of the training steps, so runs of a sweep over rates,
schedules and lengths share one compilation.
"""

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import optax

from cnn_jax import evaluators, models, plan
from cnn_jax.contracts import Description, Objective
from cnn_jax.ops import primitive
from cnn_jax.plan import Plan
from cnn_jax.runtime import imports
from cnn_jax.runtime.sharding import Layout
from cnn_jax.train.given import Given
from cnn_jax.train.state import Create
from cnn_jax.train.step import TrainSteps

_MAX_KEPT = 8
# Keys and sections that no compiled function reads.
_UNREAD = ("data.directory", "init", "eval", "checkpoint", "log", "runtime")
RATES = (
    "optim.learning_rate",
    "optim.reference_batch_size",
    "optim.batch_scaling",
    "optim.schedule",
    "train.epochs",
    "train.steps",
)
"""Keys of the rates, which are an operand. A user's optimizer has its schedule compiled in."""


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled functions of a run, with the objects that they are made from.

    Attributes:
      objective: the network and its loss.
      optimizer: the optimizer.
      create: makes the initial state.
      train_steps: the training steps; see `step.make_train_steps`.
      measures: the measurement of each evaluator by its name; see `evaluators.measure`.
    """

    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    create: Create
    train_steps: TrainSteps
    measures: Mapping[str, evaluators.Measure]


_kept: list[tuple[Any, Programs]] = []
_lock = threading.Lock()


def find(key: Any, make: Callable[[], Programs]) -> Programs:
    """Returns the programs of an earlier run with an equal key, or new ones, which it keeps."""
    with _lock:
        for index, (known, programs) in enumerate(_kept):
            if known == key:
                _kept.insert(0, _kept.pop(index))
                return programs
    programs = make()
    with _lock:
        _kept.insert(0, (key, programs))
        del _kept[_MAX_KEPT:]
    return programs


def key(options: Plan, description: Description, layout: Layout, given: Given) -> Any:
    """Returns the key of a run for `find`: equal keys mean that compiled functions can be shared.

    Args:
      options: the plan; its automatic values are replaced already.
      description: the data set.
      layout: the devices.
      given: the objects that `train.run` received; they are compared by identity.
    """
    has_own_rates = imports.is_reference(options.optim.name)
    unread = _UNREAD if has_own_rates else (*_UNREAD, *RATES)
    values = {
        path: value
        for path, value in plan.flatten(options).items()
        if not any(f"{path}.".startswith(f"{name}.") for name in unread)
    }
    objects = (given.objective, given.optimizer, *given.evaluators.values())
    return (
        json.dumps(values, sort_keys=True),
        dataclasses.replace(description, sizes={}, hashes={}),
        layout,
        primitive.selected(),
        models.registered(options.model.name),
        [(name, imports.load(name, path)) for path, name in _references(options)],
        tuple(given.evaluators),
        [_Identity(one) for one in objects],
    )


class _Identity:
    """Object that equals only itself, for keys. It keeps the object alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _references(options: Plan) -> list[tuple[str, str]]:
    """Returns the keys and names of a user's objects, which a notebook may define anew."""
    named = [
        ("model.name", options.model.name),
        ("loss.name", options.loss.name),
        ("optim.name", options.optim.name),
        *(("data.augment", name) for name, _ in options.data.augment),
        *(("eval.metrics", name) for name in options.eval.metrics),
    ]
    return [(path, name) for path, name in named if imports.is_reference(name)]
