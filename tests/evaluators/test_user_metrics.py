"""Tests of the evaluators of users' metrics."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, evaluators, plan
from cnn_jax.contracts import Batch, Outputs
from tests.evaluators.test_evaluators import (
    LAYOUT,
    SHAPE,
    VARIABLES,
    ArrayFeed,
    logits,
    predict,
)

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("evaluators")

MODULE = '''
import jax
import jax.numpy as jnp


def confidence(outputs, batch):
    """The largest probability, and 1 where it is the label's."""
    probabilities = jax.nn.softmax(outputs["logits"])
    right = outputs["logits"].argmax(-1) == batch["label"]
    return {"mean": probabilities.max(-1), "right": right}


def classification(outputs, batch):
    return {}


number = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a user's module that can be imported."""
    (tmp_path / "measured_by_me.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "measured_by_me"


def settings(*metrics: str) -> plan.Plan:
    return plan.read({"eval": {"metrics": metrics}})


def test_the_evaluator_of_a_metric_can_be_pickled(module: str) -> None:
    found = evaluators.make(settings(f"{module}:confidence"))["confidence"]
    sent = pickle.loads(pickle.dumps(found))
    given = {"logits": jnp.eye(2)}, {"label": jnp.array([0, 0]), "weight": jnp.ones(2)}
    assert sent.finish([sent.measure(*given)], None).values["right"] == 0.5


def test_a_metric_is_the_mean_over_the_split(module: str) -> None:
    found = evaluators.make(settings(f"{module}:confidence"))["confidence"]
    images, labels = ArrayFeed().arrays("test")
    outputs = logits(VARIABLES, images).astype(np.float64)
    powers = np.exp(outputs)
    expected = {
        "mean": (powers / powers.sum(-1, keepdims=True)).max(-1).mean(),
        "right": (outputs.argmax(-1) == labels).mean(),
    }
    for batch_size in (2, 7):
        evaluate = evaluators.prepare(predict, ArrayFeed(), found, LAYOUT)
        assert evaluate(VARIABLES, "test", batch_size).values == pytest.approx(expected, rel=1e-5)


def test_padding_and_unreadable_images_do_not_count() -> None:
    def inverse(outputs: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        return {"value": 1 / outputs["logits"][:, 0]}

    evaluator = evaluators.of_metric(inverse)
    batch = {"weight": jnp.array([1.0, 0.0, 1.0])}
    part = evaluator.measure({"logits": jnp.array([[2.0], [0.0], [4.0]])}, batch)
    assert evaluator.finish([part], None).values == {"value": 0.375}


def test_names_are_known_after_tracing(module: str) -> None:
    found = evaluators.make(settings(f"{module}:confidence"))
    evaluators.check_monitor("confidence/anything", found)
    for wrong in ("confidence", "top2", "other/mean"):
        with pytest.raises(errors.UserError, match=r"unknown eval\.monitor"):
            evaluators.check_monitor(wrong, found)
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, VARIABLES))
    traced = evaluators.with_names(found, predict, shapes, SHAPE)
    assert traced[evaluators.MAIN] is found[evaluators.MAIN]
    assert traced["confidence"].names == ("mean", "right")
    evaluators.check_monitor("confidence/mean", traced)
    with pytest.raises(errors.UserError, match=r"allowed: confidence/mean, confidence/right, loss"):
        evaluators.check_monitor("confidence/anything", traced)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["brier"], r"eval\.metrics 'brier' is not of the form 'module:attribute'"),
        (["no_such_module:brier"], r"eval\.metrics 'no_such_module:brier': there is no module"),
        (["{}:confidenc"], "has no attribute 'confidenc'; nearest: confidence"),
        (["{}:number"], "must be a function metric.outputs, batch., got int"),
        (["{}:classification"], "another evaluator is named 'classification' already"),
        (["{}:confidence", "{}:confidence"], "another evaluator is named 'confidence' already"),
    ],
)
def test_a_metric_that_cannot_be_used_is_named(module: str, names: list[str], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        evaluators.make(settings(*(name.format(module) for name in names)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (jnp.zeros(2), r"the metric own must return a dictionary \{name: \[B\]\}, got "),
        ({"x": jnp.zeros(())}, r"for each of the 2 examples, of shape \[2\]; 'x' has shape \[\]"),
        ({"x": jnp.zeros((2, 10))}, r"'x' has shape \[2, 10\]"),
        ({3: jnp.zeros(2)}, "must return a dictionary"),
    ],
)
def test_a_metric_must_return_one_value_for_each_example(value: Any, message: str) -> None:
    def own(outputs: Outputs, batch: Batch) -> Any:
        return value

    found = {"own": evaluators.of_metric(own)}
    with pytest.raises(errors.UserError, match=message):
        evaluators.with_names(found, predict, VARIABLES, SHAPE)
