"""Tests of sweeps over corruptions by command, compared with `corrupted.sweep` of the run."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import plan, predictor
from cnn_jax.data.sources import digits
from cnn_jax.evaluators import corrupted, printed, soups, swept
from cnn_jax.evaluators.networks import Networks
from cnn_jax.evaluators.request import Request
from tests.evaluators import given
from tests.evaluators.given import first

# In the process of the other tests with these fixtures.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]

REQUEST = Request(corruptions="impulse_noise,contrast", severities="1,5", corrupt="stored")


def test_a_sweep_of_a_run_is_that_of_its_predictor(runs: tuple[Path, Path], tmp_path: Path) -> None:
    table, told = tmp_path / "results.csv", []
    request = dataclasses.replace(REQUEST, split="test[90%:]", seed=3, csv=table)
    found = swept.run(first(runs), request, tell=lambda *counts: told.append(counts))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # A slice has the noise of the stored split, as `corrupted.sweep` has it.
    expected = corrupted.sweep(
        predictor.load(runs[0], "last"),
        digits.source(),
        "test[90%:]",
        names=("impulse_noise", "contrast"),
        severities=(1, 5),
        seed=3,
        at="stored",
    )
    np.testing.assert_array_equal(found.sweep.accuracy, expected.accuracy)
    np.testing.assert_allclose(found.sweep.loss, expected.loss, rtol=1e-4)
    assert found.path is not None
    assert found.path.parent == runs[0]
    assert found.path.name.startswith("evaluation-test-90pct-corruptions-")
    assert found.written == (found.path, table)
    content = json.loads(found.path.read_text())
    assert content["mean_error"] == pytest.approx(1 - expected.mean_accuracy)
    assert content["errors"] == pytest.approx(expected.by_corruption())
    assert content["examples"] == 36
    assert "mce" not in content
    keys = ("corruption", "severity", "top1")
    wanted = [tuple(row[key] for key in keys) for row in expected.rows()]
    assert [tuple(row[key] for key in keys) for row in content["results"]] == wanted
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["corruption"], int(row["severity"])) for row in rows] == [
        (name, severity) for name, severity, _ in wanted
    ]
    for row, (_, _, top1) in zip(rows, wanted, strict=True):
        assert float(row["top1"]) == pytest.approx(100 * top1, abs=1e-3)
        assert (row["model"], row["split"]) == (str(runs[0]), "test[90%:]")
    shown = printed.of_sweep(found)
    assert shown["top1 contrast"].split()[0] == f"{expected.accuracy[1, 0]:.4f}"
    assert shown["corrupted"] == "the stored image, seed 3"


def test_a_sweep_of_a_soup_is_that_of_the_mean_of_the_weights(runs: tuple[Path, Path]) -> None:
    steps = given.steps(runs[0])[-2:]
    networks = Networks(runs=runs[:1], checkpoint=",".join(steps))
    request = Request(split="test[:36]", soup="uniform", corruptions="fog", severities="3")
    found = swept.run(networks, request)
    soup = soups.uniform([predictor.load(runs[0], step) for step in steps])
    expected = corrupted.sweep(soup, digits.source(), "test[:36]", names=("fog",), severities=(3,))
    np.testing.assert_array_equal(found.sweep.accuracy, expected.accuracy)
    assert found.content["soup"]["kind"] == "uniform"


def test_a_sweep_of_published_weights_writes_nothing_by_itself(
    photos: tuple[Path, plan.Plan],
) -> None:
    weights, settings = photos
    request = Request(corruptions="fog", severities="1", views="mirrored", corrupt="stored")
    found = swept.run(Networks(weights=(weights,)), request, settings)
    assert (found.path, found.written) == (None, ())
    assert found.content["views"] == "mirrored"
    assert found.sweep.examples == 12
