"""Tests of thorough evaluations, compared with scikit-learn and with the evaluation of a run."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn import metrics as reference

from cnn_jax import data, errors, plan, predictor
from cnn_jax.data.sources import digits
from cnn_jax.evaluators import (
    calibration,
    chosen_examples,
    ensembles,
    intervals,
    of_run,
    printed,
    scores,
    thorough,
)
from cnn_jax.evaluators.networks import Networks
from cnn_jax.evaluators.request import Request
from cnn_jax.runs import workdir
from tests import figures
from tests.evaluators import given
from tests.evaluators.given import first

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets evaluations draw no figures."""
    with figures.stand_in():
        yield


def test_the_scores_are_those_of_scikit_learn_and_of_the_usual_evaluation(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "a.json"
    result = thorough.run(first(runs), Request(out=out))
    content = json.loads(out.read_text())
    usual = of_run.run(runs[0], "test", "last", out=tmp_path / "usual.json")
    assert content["top1"] == pytest.approx(usual.values["top1"])
    assert content["top5"] == pytest.approx(usual.values["top5"])
    assert content["nll"] == pytest.approx(usual.values["loss"], rel=1e-4)
    np.testing.assert_array_equal(content["confusion"], usual.confusion)
    labels, predicted = logits["test labels"], logits["test"].argmax(-1)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    found = [content[f"macro_{name}"] for name in ("precision", "recall", "f1")]
    assert found == pytest.approx([precision, recall, f1])
    one_hot = np.eye(10)[labels]
    probabilities = np.asarray(jax.nn.softmax(logits["test"]))
    assert content["brier"] == pytest.approx(((probabilities - one_hot) ** 2).sum(-1).mean())
    per_class = reference.precision_recall_fscore_support(labels, predicted, zero_division=0)
    rows = [content["per_class"][name] for name in "0123456789"]
    for column, expected in zip(("precision", "recall", "f1", "examples"), per_class, strict=True):
        assert [row[column] for row in rows] == pytest.approx(expected.tolist())
    assert set(result.written) == {out, out.with_suffix(".npz"), out.with_suffix(".png")}
    low, high = intervals.bootstrap(predicted == labels, seed=0)
    assert content["intervals"]["top1"] == [low, high]
    assert content["intervals"]["seed"] == 0


def test_a_temperature_is_fitted_on_validation(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "a.json"
    found = thorough.run(first(runs), Request(calibrate=True, out=out))
    temperature = calibration.fit_temperature(logits["validation"], logits["validation labels"])
    expected = scores.per_example(
        logits["test"], logits["test labels"], temperature=temperature
    ).nll.mean()
    content = json.loads(out.read_text())["calibration"]
    assert content["fit_split"] == "validation"
    assert content["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert content["calibrated_nll"] == pytest.approx(expected, rel=1e-3)
    assert sum(row["count"] for row in content["calibrated_bins"]) == 360
    assert tmp_path / "a-reliability.png" in found.written


@pytest.mark.parametrize("mean", ensembles.MEANS)
def test_several_runs_are_an_ensemble(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray], mean: str
) -> None:
    found = thorough.run(Networks(runs=runs, checkpoint="last"), Request(mean=mean))
    assert found.path is not None
    assert found.path.parent == runs[0]
    assert found.path.name.startswith("evaluation-test-ensemble-of-2-scores-")
    content = json.loads(found.path.read_text())
    assert content["models"] == list(map(str, runs))
    assert content["mean"] == mean
    # Both members are the same network.
    expected = scores.summary(logits["test"], logits["test labels"])
    assert content["top1"] == pytest.approx(expected["top1"])
    assert content["nll"] == pytest.approx(expected["nll"], rel=1e-4)


def test_the_members_of_an_ensemble_are_scored_alone(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    early, *_, late = given.steps(runs[0])
    out = tmp_path / "a.json"
    networks = Networks(runs=runs[:1], checkpoint=f"{early},{late}")
    thorough.run(networks, Request(split="test[:50%]", out=out))
    content = json.loads(out.read_text())
    assert content["models"] == [f"{runs[0]} ({early})", f"{runs[0]} ({late})"]
    assert content["checkpoint_steps"] == [int(early), int(late)]
    for found, step in zip(content["members"], (early, late), strict=True):
        alone = thorough.run(first(runs, step), Request(split="test[:50%]")).content
        assert found["model"] == f"{runs[0]} ({step})"
        values = {name: alone[name] for name in found if name != "model"}
        assert {**found, "model": 0} == pytest.approx({**values, "model": 0})
    assert content["members"][0]["nll"] != content["members"][1]["nll"]


def test_the_same_checkpoint_is_no_second_member(runs: tuple[Path, Path]) -> None:
    networks = Networks(runs=runs[:1], checkpoint=f"last,{given.steps(runs[0])[-1]}")
    with pytest.raises(errors.UserError, match=r"--checkpoint last and \d+ of .* are both step"):
        thorough.run(networks, Request())


def test_calibration_without_a_validation_split_names_the_flag(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", test_images=np.zeros((10, 8, 8), "u1"), test_labels=range(10))
    settings = given.on_another_set(runs[0], tmp_path / "a.npz")
    message = (
        "--calibrate uses the split 'validation' unless --fit_split names another one: unknown"
    )
    with pytest.raises(errors.UserError, match=message):
        thorough.run(first(runs), Request(calibrate=True), settings)
    with pytest.raises(errors.UserError, match=r"^unknown split 'val'"):
        thorough.run(first(runs), Request(calibrate=True, fit_split="val"), settings)


def test_a_temperature_at_its_limit_is_named(runs: tuple[Path, Path]) -> None:
    found = thorough.run(first(runs), Request(calibrate=True, split="test[:50%]"))
    assert found.content["calibration"]["is_limit"] is False
    assert "limit" not in printed.of_thorough(found)["temperature"]
    changed = {**found.content["calibration"], "is_limit": True}
    found = dataclasses.replace(found, content={**found.content, "calibration": changed})
    assert "the limit of the search" in printed.of_thorough(found)["temperature"]


def test_members_may_come_from_sets_that_are_gone(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    moved = shutil.copytree(runs[1], tmp_path / "moved")
    content = json.loads((moved / workdir.CONFIG).read_text())
    content["data"] |= {"source": "tfds", "name": "nowhere/1", "directory": "gone"}
    (moved / workdir.CONFIG).write_text(json.dumps(content))
    examples = digits.source().splits["test"]
    images = np.stack([examples[index]["image"] for index in range(20)])
    np.savez(tmp_path / "a.npz", test_images=images, test_labels=examples.labels()[:20])
    settings = given.on_another_set(runs[0], tmp_path / "a.npz")
    networks = Networks(runs=(runs[0], moved), checkpoint="last")
    found = thorough.run(networks, Request(), settings)
    expected = logits["test"][:20].argmax(-1)
    np.testing.assert_array_equal(found.rows.predicted, expected)


def test_views_have_a_file_of_their_own(runs: tuple[Path, Path]) -> None:
    found = thorough.run(first(runs), Request(split="test[:20]", views="mirrored"))
    assert found.path is not None
    assert found.path.name.startswith("evaluation-test-to-20-mirrored-scores-")
    assert found.content["views"] == "mirrored"
    assert found.content["mean"] == "probabilities"
    assert found.content["examples"] == 20


def test_a_subset_restricts_logits_and_examples(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("7\n3\n1\n")
    found = thorough.run(first(runs), Request(subset=str(path)))
    labels = logits["test labels"]
    kept = np.isin(labels, [7, 3, 1])
    expected = logits["test"][kept][:, [7, 3, 1]].argmax(-1)
    wanted = np.array([-1, 2, -1, 1, -1, -1, -1, 0, -1, -1])[labels[kept]]
    assert found.content["top1"] == pytest.approx((expected == wanted).mean())
    assert found.content["examples"] == kept.sum()
    assert found.content["left_out"] == (~kept).sum()
    assert "top5" not in found.content
    assert list(found.per_class) == ["7", "3", "1"]


def test_a_data_set_may_have_some_of_the_classes(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray]
) -> None:
    stored = workdir.load_plan(runs[0])
    keys = dataclasses.replace(stored.data, classes="8,2")
    settings = dataclasses.replace(stored, data=keys)
    found = thorough.run(first(runs), Request(subset="data"), settings)
    labels = logits["test labels"]
    kept = np.isin(labels, [8, 2])
    right = np.array([8, 2])[logits["test"][kept][:, [8, 2]].argmax(-1)] == labels[kept]
    assert found.content["top1"] == pytest.approx(right.mean())
    with pytest.raises(errors.UserError, match="the data set has other classes than the network"):
        thorough.run(first(runs), Request(), settings)


def test_synsets_of_a_folder_match_the_english_names_of_weights() -> None:
    synsets = ("n01440764", "n01443537", "n01484850")
    english = ("tench", "goldfish", "great white shark")
    arrays = data.from_arrays(
        {"test": (np.zeros((3, 4, 4, 1), np.uint8), np.array([2, 0, 1]))}, class_names=synsets
    )
    selected = chosen_examples.select(arrays, plan.Data(), "test")
    found = chosen_examples.choose(selected, synsets, english, None)
    assert found.class_names == english
    assert found.examples.labels().tolist() == [2, 0, 1]
    # A set with some of the classes, such as ImageNet-A.
    subset = chosen_examples.find_subset("data", synsets, ("cat", *english[::-1]))
    found = chosen_examples.choose(selected, synsets, ("cat", *english[::-1]), subset)
    assert found.examples.labels().tolist() == [1, 3, 2]
    assert [example["label"] for example in map(found.examples.__getitem__, range(3))] == [1, 3, 2]
    with pytest.raises(errors.UserError, match="other classes than the network"):
        chosen_examples.choose(selected, synsets, ("cat", *english[1:]), None)


def test_runs_with_other_splits_are_no_ensemble(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(runs[1], tmp_path / "other")
    content = json.loads((other / workdir.DATASET).read_text())
    content["hashes"]["validation"] = "0" * 64
    (other / workdir.DATASET).write_text(json.dumps(content))
    networks = Networks(runs=(runs[0], other))
    with pytest.raises(errors.UserError, match=r"the split validation of .*other has other exampl"):
        thorough.run(networks, Request(split="validation"))
    thorough.run(networks, Request(split="test"))


def test_right_answers_are_counted(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "real.json"
    answers = [[int(label), (int(label) + 1) % 10] for label in logits["test labels"]]
    answers[0] = []
    path.write_text(json.dumps(answers))
    found = thorough.run(first(runs), Request(answers=path)).content["real"]
    predicted = logits["test"].argmax(-1)
    hits = [guess in each for guess, each in zip(predicted, answers, strict=True)]
    assert found["real_top1"] == pytest.approx(np.mean(hits[1:]))
    assert found["examples"] == 359


def test_results_on_the_same_examples_are_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    earliest = min(int(path.name) for path in (runs[0] / workdir.CHECKPOINTS).glob("[0-9]*"))
    out = tmp_path / "old.json"
    old = thorough.run(first(runs, str(earliest)), Request(out=out))
    new = thorough.run(first(runs), Request(against=out))
    found = new.content["against"]
    test = intervals.mcnemar(new.rows.right, old.rows.right)
    assert (found["only_this"], found["only_earlier"]) == (test.only_a, test.only_b)
    assert found["p_value"] == test.p_value
    difference = new.content["top1"] - old.content["top1"]
    assert found["top1_difference"] == pytest.approx(difference)
    low, high = found["top1_difference_interval"]
    assert low <= difference <= high
    assert found["result"] == str(out)
    with pytest.raises(errors.UserError, match="has other examples: 0 are only in this evaluati"):
        thorough.run(first(runs), Request(split="test[:50%]", against=out))


def test_published_weights_write_nothing_by_themselves(
    photos: tuple[Path, plan.Plan], tmp_path: Path
) -> None:
    weights, settings = photos
    networks = Networks(weights=(weights,))
    found = thorough.run(networks, Request(), settings)
    assert (found.path, found.written) == (None, ())
    assert found.content["split"] == "test"
    network = predictor.load(weights)
    with np.load(settings.data.directory) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    expected = scores.per_example(network(images).logits, labels)
    np.testing.assert_array_equal(found.rows.predicted, expected.predicted)
    path = tmp_path / "results.csv"
    thorough.run(networks, Request(csv=path), settings)
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["model"] == str(weights)
    assert (row["img_size"], row["crop_pct"], row["interpolation"]) == ("40", "0.909", "bicubic")
