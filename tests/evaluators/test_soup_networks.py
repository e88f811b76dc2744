"""Tests of soups by command, compared with `soups` on the splits of the run."""

import json
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import errors, plan, predictor
from cnn_jax.data import selection
from cnn_jax.data.sources import digits
from cnn_jax.evaluators import evaluate, networks, scores, soup_networks, soups, thorough
from cnn_jax.evaluators.networks import DataSet, Loaded, Networks
from cnn_jax.evaluators.request import Request, Selection
from cnn_jax.runs import workdir
from tests import figures
from tests.evaluators import given
from tests.evaluators.members import Small, member, source

# In the process of the other tests with these fixtures.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]


@pytest.mark.parametrize("kind", ["uniform", "greedy"])
def test_a_soup_of_checkpoints_is_the_mean_of_their_weights(
    runs: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    steps = given.steps(runs[0])
    out = tmp_path / "a.json"
    with figures.stand_in():
        thorough.run(
            Networks(runs=runs[:1], checkpoint=",".join(steps)), Request(soup=kind, out=out)
        )
    content = json.loads(out.read_text())
    members = [predictor.load(runs[0], step) for step in steps]
    validation = workdir.load_plan(runs[0]).data.validation_split
    titles = [f"{runs[0]} ({step})" for step in steps]
    if kind == "uniform":
        soup, kept = soups.uniform(members), tuple(range(len(members)))
    else:
        found = soups.greedy(members, digits.source(), validation)
        soup, kept = found.predictor, found.members
        assert content["soup"]["fit_top1"] == found.accuracy
        assert content["soup"]["member_fit_top1"] == dict(
            zip(titles, found.accuracies, strict=True)
        )
        assert content["soup"]["fit_split"] == "validation"
    assert content["soup"]["kind"] == kind
    assert content["soup"]["members"] == [titles[index] for index in kept]
    assert "mean" not in content
    assert "members" not in content
    result = evaluate(soup, digits.source(), "test", rows=True)
    expected = scores.summary(result.details["logits"], result.details["labels"])
    assert content["top1"] == pytest.approx(expected["top1"])
    assert content["nll"] == pytest.approx(expected["nll"], rel=1e-4)
    assert content["param_count"] == Loaded((members[0],)).param_count


def loaded() -> Loaded:
    return Loaded((member(Small(), 1), member(Small(), 2)))


def data_set() -> DataSet:
    return DataSet(source(), plan.Data(source="digits"), "digits", {}, {})


def test_the_statistics_of_a_soup_are_those_of_the_training_images() -> None:
    picked = selection.pick(source(), {"test": "test", "statistics": "train[:150]"})
    chosen = Selection(picked["test"], statistics=picked["statistics"])
    request = Request(soup="uniform", split="test", statistics_split="train[:150]")
    found = soup_networks.mix(loaded(), ("a", "b"), request, data_set(), chosen)
    expected = soups.uniform(loaded().predictors, source(), "train[:150]")
    (soup,) = found.predictors
    for name in ("mean", "var"):
        np.testing.assert_array_equal(
            soup.variables["batch_stats"]["norm2"][name],
            expected.variables["batch_stats"]["norm2"][name],
        )
    assert found.soup == {
        "kind": "uniform",
        "statistics_split": "train[:150]",
        "members": ["a", "b"],
    }


def test_batch_normalisation_needs_training_images() -> None:
    chosen = Selection(selection.pick(source(), {"test": "test"})["test"])
    request = Request(soup="uniform", split="test")
    with pytest.raises(errors.UserError, match="give --statistics_split, such as 'train"):
        soup_networks.mix(loaded(), ("a", "b"), request, data_set(), chosen)
    assert soup_networks.mix(loaded(), ("a", "b"), Request(), data_set(), chosen).soup == {}


def test_a_held_out_split_is_not_evaluated(runs: tuple[Path, Path]) -> None:
    several = Networks(runs=runs)
    request = Request(soup="greedy", split="test", fit_split="test[:50%]")
    with pytest.raises(errors.UserError, match="share 180 examples, which would make the result"):
        thorough.run(several, request)
    assert networks.open_data(several, None).runs.keys() == set(map(str, runs))
