"""Tests of thorough evaluations, compared with scikit-learn and with the evaluation of a run."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sklearn import metrics as reference

from cnn_jax import data, errors, limits, plan, predictor
from cnn_jax.data.sources import digits
from cnn_jax.evaluators import (
    calibration,
    chosen_examples,
    ensembles,
    example_rows,
    intervals,
    of_run,
    results_csv,
    scores,
    thorough,
)
from cnn_jax.evaluators.networks import Networks
from cnn_jax.evaluators.thorough import Request
from cnn_jax.runs import workdir
from tests import figures
from tests.pretrained import checkpoints

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets evaluations draw no figures."""
    with figures.stand_in():
        yield


@pytest.fixture(scope="module")
def runs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two work directories, copies of a run."""
    folder = tmp_path_factory.mktemp("runs")
    return shutil.copytree(trained, folder / "a"), shutil.copytree(trained, folder / "b")


def first(runs: tuple[Path, Path], which: str = "last") -> Networks:
    return Networks(runs=runs[:1], checkpoint=which)


@pytest.fixture(scope="module")
def logits(runs: tuple[Path, Path]) -> dict[str, np.ndarray]:
    """The logits of the last checkpoint, by split, and the labels."""
    source = digits.source()
    keys = workdir.load_plan(runs[0]).data
    network = predictor.load(runs[0], "last")
    found = {}
    for split in ("validation", "test"):
        examples = chosen_examples.select(source, keys, getattr(keys, f"{split}_split"))
        images = np.stack([examples[index]["image"] for index in range(len(examples))])
        found[split] = network(images).logits
        found[f"{split} labels"] = examples.labels()
    return found


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


def test_the_rows_are_read_without_pickle(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "a.json"
    thorough.run(first(runs), Request(out=out))
    with np.load(out.with_suffix(".npz"), allow_pickle=False) as rows:
        found = dict(rows)
    expected = scores.per_example(logits["test"], logits["test labels"])
    np.testing.assert_array_equal(found["labels"], logits["test labels"])
    np.testing.assert_array_equal(found["predicted"], expected.predicted)
    np.testing.assert_array_equal(found["right"], expected.right())
    np.testing.assert_allclose(found["nll"], expected.nll, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["confidence"], expected.confidence, rtol=1e-3)
    assert found["names"][3] == "test, image 3"


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


def test_a_file_that_cannot_be_written_is_named(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path, name: str, content: object) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(workdir, "save", refuse)
    out = tmp_path / "a.json"
    found = thorough.run(first(runs), Request(out=out))
    assert found.unwritten == (f"{out} cannot be written: Read-only file system",)
    assert found.written == (out.with_suffix(".npz"), out.with_suffix(".png"))


@pytest.mark.parametrize("confusion", [False, True])
def test_a_large_confusion_matrix_is_an_array(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confusion: bool
) -> None:
    monkeypatch.setattr(limits, "MAX_CONFUSION_CLASSES", 5)
    out = tmp_path / "a.json"
    found = thorough.run(first(runs), Request(out=out, confusion=confusion))
    assert "confusion" not in json.loads(out.read_text())
    array = out.with_suffix(".npy")
    assert set(found.written) == {out, out.with_suffix(".npz"), *([array] if confusion else [])}
    if confusion:
        np.testing.assert_array_equal(np.load(array), found.found.confusion())
    with pytest.raises(errors.UserError, match=r"a\.json exists and is not overwritten"):
        thorough.run(first(runs), Request(out=out))
    out.unlink()
    with pytest.raises(errors.UserError, match=r"a\.npz exists and is not overwritten"):
        thorough.run(first(runs), Request(out=out))


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


def test_examples_are_matched_by_name(tmp_path: Path) -> None:
    names, classes = np.array(["a", "b", "c"]), np.array(["cat", "dog"])
    labels, ones = np.array([0, 1, 1]), np.ones(3)
    rows = example_rows.ExampleRows(names, labels, classes, labels, ones > 0, ones, ones)
    turned = dataclasses.replace(rows, names=names[::-1], labels=labels[::-1])
    path = tmp_path / "a.json"
    example_rows.write(path.with_suffix(".npz"), turned)
    earlier = example_rows.read(path)
    np.testing.assert_array_equal(example_rows.match(rows, earlier, "a"), [2, 1, 0])
    for changes, message in (
        ({"labels": np.array([1, 1, 1])}, "another label for 'a' and 1 of 3 examples"),
        ({"class_names": classes[::-1]}, "other classes"),
        ({"names": np.array(["a", "b", "d"])}, "has other examples: 1 are only .* 1 only there"),
        ({"names": np.array(["a", "b", "b"])}, "has other examples: 0 are only .* 1 only there"),
    ):
        with pytest.raises(errors.UserError, match=message):
            example_rows.match(dataclasses.replace(rows, **changes), earlier, "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no .*, the rows of"),
        (b"PK damaged", "cannot be read"),
        ({"names": np.array([{}])}, "cannot be read: Object arrays cannot be loaded"),
        ({"names": np.zeros(3)}, "is not a file of an evaluation's rows"),
        ({"labels": np.array([0, 1, 2])}, "is not a file of an evaluation's rows"),
        ({"right": np.array([True])}, "is not a file of an evaluation's rows"),
    ],
)
def test_damaged_rows_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "a.json"
    ones = np.ones(3)
    columns = {
        "names": np.array(["a", "b", "c"]),
        "class_names": np.array(["cat", "dog"]),
        "labels": np.array([0, 1, 1]),
        "predicted": np.array([0, 1, 1]),
        "right": ones > 0,
        "confidence": ones,
        "nll": ones,
    }
    if isinstance(content, bytes):
        path.with_suffix(".npz").write_bytes(content)
    elif content is not None:
        np.savez(path.with_suffix(".npz"), **{**columns, **content})
    with pytest.raises(errors.UserError, match=message):
        example_rows.read(path)


def test_lines_are_appended_to_a_table(runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results = [
        thorough.run(first(runs), request)
        for request in (Request(csv=path), Request(csv=path, calibrate=True, views="mirrored"))
    ]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert tuple(rows[0]) == results_csv.COLUMNS
    for row, result in zip(rows, results, strict=True):
        content = result.content
        assert row["model"] == str(runs[0])
        assert float(row["top1"]) == pytest.approx(100 * content["top1"], abs=1e-3)
        assert float(row["top1_err"]) == pytest.approx(100 - 100 * content["top1"], abs=1e-3)
        assert float(row["ece"]) == content["ece"]
        assert float(row["param_count"]) == pytest.approx(content["param_count"] / 1e6, abs=1e-4)
        assert (row["img_size"], row["crop_pct"], row["split"]) == ("32", "1.0", "test")
    assert rows[0]["temperature"] == ""
    assert float(rows[1]["temperature"]) == results[1].content["calibration"]["temperature"]
    assert rows[1]["views"] == "mirrored"
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(path)
    assert table["top1"].tolist() == pytest.approx([float(row["top1"]) for row in rows])


def test_a_table_with_other_columns_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("model,top1\nresnet50,80\n")
    with pytest.raises(errors.UserError, match="has other columns, model, top1, and is not chan"):
        thorough.run(first(runs), Request(csv=path))
    assert path.read_text() == "model,top1\nresnet50,80\n"


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


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, plan.Plan]:
    """Synthetic published weights, and the plan of a data set with their classes."""
    folder = tmp_path_factory.mktemp("weights")
    weights = checkpoints.write(folder / "weights", checkpoints.state_dict())
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 50, 60, 3)).astype(np.uint8)
    labels = np.arange(12) % 10
    path = folder / "photos.npz"
    np.savez(path, test_images=images, test_labels=labels)
    keys = dataclasses.replace(plan.Plan().data, source="npz", directory=str(path))
    return weights, dataclasses.replace(plan.Plan(), data=keys)


def test_settings_of_published_weights_name_the_data_set_only(
    photos: tuple[Path, plan.Plan],
) -> None:
    weights, settings = photos
    networks = Networks(weights=(weights,))
    with pytest.raises(errors.UserError, match="published weights have no data set; name one"):
        thorough.run(networks, Request())
    changed = dataclasses.replace(settings, seed=1)
    with pytest.raises(errors.UserError, match="seed is that of the published weights and cannot"):
        thorough.run(networks, Request(), changed)
    with pytest.raises(errors.UserError, match="--calibrate of published weights needs --fit_sp"):
        thorough.run(networks, Request(calibrate=True), settings)
    with pytest.raises(errors.UserError, match="share 6 examples"):
        thorough.run(networks, Request(calibrate=True, fit_split="test[:50%]"), settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": "ten_crop"}, "unknown --views 'ten_crop'; did you mean 'ten_crops'"),
        ({"mean": "logit", "views": "mirrored"}, "unknown --mean 'logit'; did you mean 'logits'"),
        ({"mean": "logits"}, "--mean is for several networks or --views"),
        ({"fit_split": "train"}, "--fit_split is for --calibrate"),
        ({"subset": "data", "answers": Path("a")}, "--answers and --subset exclude each other"),
        ({"answers": Path("none.json")}, "there is no file none.json; check the path"),
        ({"subset": "none.txt"}, "there is no file none.txt; check the path"),
        ({"out": Path("a.txt")}, "--out must end in .json"),
        ({"csv": Path("a.txt")}, "--csv must end in .csv"),
        ({"csv": Path("nowhere/a.csv")}, "the folder of --csv nowhere/a.csv does not exist"),
        ({"against": Path("a.npz")}, "--against must name the .json file"),
        ({"against": Path("a.json")}, "there is no a.npz"),
    ],
)
def test_bad_requests_fail_before_anything_is_loaded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        thorough.run(Networks(runs=(Path("nowhere"),)), Request(**changes))


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (Networks(), "give either work directories or published weights"),
        (Networks(runs=(Path("a"), Path("a"))), "a is given twice"),
        (Networks(weights=("a", "b", "c"), names=("x", "y")), "names 2 networks for 3 files"),
        (Networks(runs=(Path("a"),), batch_size=-1), "batch size must be at least 1, got -1"),
    ],
)
def test_networks_are_checked(networks: Networks, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        thorough.run(networks, Request())
