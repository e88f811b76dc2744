"""Tests of losses against torch, torchvision and timm; `make_losses.py` made the values."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import losses, plan
from cnn_jax.contracts import Loss
from cnn_jax.objectives import distilled

FILE = Path(__file__).parent / "losses" / "references.json"
CASES: dict[str, dict[str, Any]] = {
    "cross_entropy, smoothing 0.1": {"label_smoothing": 0.1},
    "cross_entropy, mixed, smoothing 0.1": {"label_smoothing": 0.1},
    "binary_cross_entropy": {},
    "binary_cross_entropy, smoothing 0.1": {"label_smoothing": 0.1},
    "binary_cross_entropy, sum": {"class_sum": True},
    "binary_cross_entropy, mixed, smoothing 0.1": {"label_smoothing": 0.1},
    "binary_cross_entropy, mixed, threshold 0.2": {"target_threshold": 0.2},
    "focal": {},
    "focal, gamma 0.5, no alpha": {"focal_gamma": 0.5, "focal_alpha": -1.0},
    "focal, mixed, sum": {"class_sum": True},
    "distillation, soft": {"kind": "soft"},
    "distillation, hard": {"kind": "hard"},
}


def loss_of(case: str) -> Loss:
    """Returns the loss of each example."""
    name = case.partition(",")[0]
    if name == "distillation":
        options = plan.read({"distill": {"weight": 1.0, "temperature": 4.0, **CASES[case]}})
        return distilled.add(losses.make(options.loss), options.distill)
    return losses.make(plan.read({"loss": {"name": name, **CASES[case]}}).loss)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def test_all_values_are_compared(golden: dict[str, Any]) -> None:
    assert golden["cases"].keys() == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_references(case: str, golden: dict[str, Any]) -> None:
    loss = loss_of(case)
    with jax.enable_x64(True):
        batch = {"label": jnp.array(golden["labels"]), "teacher": jnp.array(golden["teacher"])}
        if "mixed" in case:
            batch["target"] = jnp.array(golden["mixed"])

        def mean(logits: jax.Array) -> jax.Array:
            return loss({"logits": logits}, batch).mean()

        value, gradient = jax.value_and_grad(mean)(jnp.array(golden["logits"]))
    expected = golden["cases"][case]
    np.testing.assert_allclose(value, expected["value"], rtol=1e-13)
    np.testing.assert_allclose(gradient, expected["gradient"], rtol=1e-12, atol=1e-14)
