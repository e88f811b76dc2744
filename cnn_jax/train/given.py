"""Objects that `train.run` receives in place of parts that the config names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax

from cnn_jax import errors
from cnn_jax.contracts import Evaluator, Objective, Source
from cnn_jax.plan import GIVEN, Distill, Loss, Model, Optim, Plan


@dataclasses.dataclass(frozen=True)
class Given:
    """The objects that a user gave to `train.run`.

    Attributes:
      source: the data set, or None for `data.source`.
      objective: network and loss, or None for those of `model` and `loss`.
      evaluators: further evaluators by name; a name of the run's own replaces that evaluator.
      optimizer: the optimizer, with its own learning rate, or None for that of `optim`.
    """

    source: Source | None = None
    objective: Objective | None = None
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    optimizer: optax.GradientTransformation | None = None

    def record(self, plan: Plan) -> Plan:
        """Returns the plan with the value 'given' where an object takes the place of a name.

        Raises:
          UserError: an object is of another type, the plan has that value for an object that is
            missing, or it sets options that a given object does not read.
        """
        self._check_types()
        data, train, optim = plan.data, plan.train, plan.optim
        for key, value, is_given, argument in (
            ("data.source", data.source, self.source is not None, "source"),
            ("train.objective", train.objective, self.objective is not None, "objective"),
            ("optim.name", optim.name, self.optimizer is not None, "optimizer"),
        ):
            if value == GIVEN and not is_given:
                raise errors.UserError(
                    f"{key} is {GIVEN!r}: the run was made with an object; pass it again as "
                    f"train.run(..., {argument}=...), or set {key} to a name"
                )
        if self.source is not None:
            data = dataclasses.replace(data, source=GIVEN)
        if self.objective is not None:
            _check_defaults("model", plan.model, Model(), "objective")
            _check_defaults("loss", plan.loss, Loss(), "objective")
            _check_defaults("distill", plan.distill, Distill(), "objective")
            train = dataclasses.replace(train, objective=GIVEN)
        if self.optimizer is not None:
            _check_defaults("optim", optim, Optim(), "optimizer")
            optim = Optim(name=GIVEN)
        return dataclasses.replace(plan, data=data, train=train, optim=optim)

    def _check_types(self) -> None:
        missing = [
            name
            for name in ("init", "loss", "after", "predict")
            if self.objective is not None and not callable(getattr(self.objective, name, None))
        ]
        if missing:
            raise errors.UserError(
                f"objective= must be a contracts.Objective, got {type(self.objective).__name__} "
                f"without the method {missing[0]}"
            )
        if not isinstance(self.evaluators, Mapping):
            raise errors.UserError(
                "evaluators= must be a mapping of names to contracts.Evaluator, got "
                f"{type(self.evaluators).__name__}"
            )


def _check_defaults(section: str, given: Any, default: Any, argument: str) -> None:
    """Checks that a section which a given object replaces has its defaults.

    Raises:
      UserError: a value differs.
    """
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        if value != getattr(default, field.name) and value != GIVEN:
            raise errors.UserError(
                f"{section}.{field.name} {value!r} has no effect beside train.run("
                f"{argument}=...), which replaces the section {section}; leave the section at its "
                f"defaults, or leave out {argument}="
            )
