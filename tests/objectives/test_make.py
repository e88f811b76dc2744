"""Tests of `objectives.make`: from a plan to an objective."""

import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors, losses, models, objectives, plan
from cnn_jax.contracts import Description
from cnn_jax.objectives import Classification, Frozen
from tests.toys import CROSS_ENTROPY, Dense

CLASSES = 7
DESCRIPTION = Description(
    class_names=tuple("abcdefg"),
    native_size=(32, 32),
    input_shape=(32, 32, 1),
    mean=(0.5,),
    std=(0.25,),
)
MLP = {"name": "mlp", "widths": (8,)}


def make(**sections: Any) -> Any:
    return objectives.make(plan.read({"model": MLP, **sections}), DESCRIPTION)


def test_make_uses_the_plan() -> None:
    objective = make(
        model={**MLP, "dtype": "bfloat16"},
        loss={"name": "cross_entropy", "label_smoothing": 0.3, "auxiliary_weight": 0.25},
    )
    assert isinstance(objective, Classification)
    assert objective.auxiliary_weight == 0.25
    assert objective.model == models.create(
        "mlp", num_classes=CLASSES, dtype="bfloat16", widths=(8,)
    )
    logits = {"logits": jnp.eye(CLASSES)}
    batch = {"label": jnp.arange(CLASSES)}
    np.testing.assert_array_equal(
        objective.example_loss(logits, batch),
        losses.cross_entropy(logits["logits"], batch["label"], 0.3),
    )


def test_make_trains_the_parameters_of_the_plan() -> None:
    objective = make(train={"trainable": "head, ^hidden1/bias$"})
    assert isinstance(objective, Frozen)
    assert isinstance(objective.inner, Classification)
    assert objective.model == objective.inner.model
    assert objective.patterns == ("^output/", "^hidden1/bias$")


def test_wrap_freezes_a_given_objective() -> None:
    given = Classification(Dense(), CROSS_ENTROPY)
    options = plan.read({"train.trainable": "Dense_1"})
    assert objectives.wrap(given, options, (4, 4, 1)) == Frozen(given, ("Dense_1",))
    assert objectives.wrap(given, plan.Plan(), (4, 4, 1)) is given


class Linear(nn.Module):
    """Network of a user; it breaks the contract if `surplus` is not 0."""

    num_classes: int
    surplus: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(self.num_classes + self.surplus)(images.reshape(len(images), -1))


def test_a_network_of_the_user_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("users_networks")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(module).update(Linear=Linear)
    name = "users_networks:Linear"
    assert make(model={"name": name}).model == Linear(num_classes=CLASSES)
    with pytest.raises(errors.UserError, match=rf"logits have shape \[1, 8\] .*\[1, {CLASSES}\]"):
        make(model={"name": name, "surplus": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "lenett"}}, "unknown model 'lenett'; did you mean 'lenet'"),
        ({"loss": {"name": "distances"}}, "unknown loss.name 'distances'; did you mean"),
        (
            {"train": {"objective": "given"}},
            r"pass it as train.run\(.*objective=.*predictor.load\(DIR, objective=",
        ),
        (
            {"train": {"trainable": "hiddn1"}},
            "train.trainable 'hiddn1' matches none of the 4 parameters; nearest: hidden1/",
        ),
        ({"train": {"trainable": "output("}}, r"'output\(' is no regular expression: missing"),
        (
            {"model": {"name": "lenet5"}, "train": {"trainable": "head"}},
            "train.trainable 'head': .*has no head",
        ),
        ({"train": {"trainable": "output,"}}, "train.trainable has an empty pattern"),
    ],
)
def test_mistakes_in_a_plan_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        make(**changes)


def test_an_objective_for_other_classes_is_refused() -> None:
    objectives.check_classes(Classification(Dense((CLASSES,)), CROSS_ENTROPY), DESCRIPTION)
    other = Classification(Dense((CLASSES + 2,)), CROSS_ENTROPY)
    message = "the objective has logits of 9 classes, the data set has 7; make its network for 7"
    with pytest.raises(errors.UserError, match=message):
        objectives.check_classes(other, DESCRIPTION)
