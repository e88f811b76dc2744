"""Tests of predictors of runs and of published weights, and of the command."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from cnn_jax import data, errors, predict, train
from cnn_jax import predictor as predictors
from cnn_jax.data import images
from cnn_jax.data.sources import digits
from cnn_jax.data.sources.arrays import ArraySource, from_arrays
from cnn_jax.evaluators import of_run
from cnn_jax.predictor import Predictor, folders
from cnn_jax.runs import checkpoint, workdir
from cnn_jax.runtime import sharding
from tests.outputs import assert_help_is_light

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]
TEST = digits.source().splits["test"]
DIGITS = np.stack([TEST[index]["image"] for index in range(10)])  # [10, 8, 8, 1]

ExitStatus = Callable[..., int | str | None]


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return predictors.load(trained)


def png(path: Path, image: np.ndarray, mode: str = "L", scale: int = 1) -> Path:
    picture = Image.fromarray(image[..., 0])
    width, height = picture.size
    picture.resize((width * scale, height * scale), Image.Resampling.BOX).convert(mode).save(path)
    return path


def test_a_file_is_preprocessed_like_an_image_of_the_data_set(
    trained: Path, predictor: Predictor, tmp_path: Path
) -> None:
    files = [png(tmp_path / f"{i}.png", image) for i, image in enumerate(DIGITS)]
    found = predictor(files).probabilities
    plan = workdir.load_plan(trained)
    feed = data.bind(data.open_source(plan.data), plan, sharding.make_layout())
    batch = next(data.eval_batches(feed, "test", len(DIGITS)))
    expected = jax.nn.softmax(predictor.predict(predictor.variables, batch)["logits"])
    np.testing.assert_allclose(found, expected[: len(DIGITS)], rtol=0, atol=1e-6)


def mixed_sizes() -> ArraySource:
    """Returns the digits, with test images of several sizes."""
    sizes = [(8, 8), (24, 12), (6, 9), (31, 40)]
    pictures = [
        images.stretch(TEST[index]["image"], sizes[index % len(sizes)], "bicubic")
        for index in range(len(TEST))
    ]
    train_split = digits.source().splits["train"]
    return from_arrays(
        {"train": (train_split.images, train_split.labels()), "test": (pictures, TEST.labels())}
    )


@pytest.mark.parametrize(
    ("make_source", "given"),
    [
        pytest.param(
            digits.source,
            {"image_size": 7, "image_width": 9, "resize": "bilinear"},
            marks=pytest.mark.slow,
        ),
        (mixed_sizes, {"image_size": 10, "image_width": 8, "channels": 3}),
        pytest.param(
            mixed_sizes,
            {"image_size": 7, "image_width": 9, "resize": "bicubic"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["wide input", "padded high input", "scaled wide input"],
)
def test_evaluation_and_prediction_of_the_stored_images_agree(
    tmp_path: Path,
    make_source: Callable[[], ArraySource],
    given: dict[str, Any],
) -> None:
    source = make_source()
    config = {
        "data": given,
        "model": {"name": "mlp", "widths": (32,)},
        "optim": {"learning_rate": 0.05},
        "train": {"batch_size": 32, "epochs": 2.0, "steps_per_call": 8},
    }
    outcome = train.run(config, tmp_path, source=source, progress=False)
    evaluation = of_run.run(tmp_path, "test", "last", source=source)
    assert evaluation.values["top1"] == outcome.test["top1"]
    assert evaluation.values["top1"] > 0.5
    found = predictors.load(tmp_path, "last")
    examples = source.splits["test"]
    pictures = [examples[index]["image"] for index in range(len(examples))]
    shape = (given["image_size"], given["image_width"], given.get("channels", 1))
    assert found.preprocess(pictures[1]).shape == shape
    probabilities, labels = found(pictures).probabilities, examples.labels()
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, probabilities.argmax(-1)), 1)
    np.testing.assert_array_equal(confusion, evaluation.confusion)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert loss == pytest.approx(evaluation.values["loss"], rel=1e-5)


@pytest.mark.parametrize("which", ["best", "last", "20"])
def test_a_checkpoint_is_chosen_by_name_or_step(trained: Path, which: str) -> None:
    restored = predictors.restore(trained, which)
    assert restored.step == checkpoint.choose(trained / workdir.CHECKPOINTS, which)
    assert restored.plan == workdir.load_plan(trained)
    assert restored.description == workdir.load_description(trained)
    variables = predictors.load(trained, which).variables
    jax.tree.map(np.testing.assert_array_equal, variables, restored.variables)


def test_images_have_the_same_probabilities_alone_and_together(predictor: Predictor) -> None:
    each = [predictor(image).probabilities for image in DIGITS]
    np.testing.assert_allclose(predictor(DIGITS).probabilities, each, rtol=0, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 10, 20])
def test_the_most_probable_classes_come_first(predictor: Predictor, top_k: int) -> None:
    probabilities = predictor(DIGITS[0]).probabilities
    answer = predictor.top(DIGITS[0], top_k)
    assert [value for _, value in answer] == sorted(probabilities.tolist(), reverse=True)[:top_k]
    for name, value in answer:
        assert value == probabilities[int(name)]
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16"])
def test_the_mode_of_a_file_does_not_change_the_probabilities(
    predictor: Predictor, tmp_path: Path, mode: str
) -> None:
    path = png(tmp_path / "a.png", DIGITS[1], "L" if mode == "I;16" else mode)
    if mode == "I;16":
        Image.fromarray(DIGITS[1, ..., 0].astype(np.uint16) * 257).save(path)
    found = predictor(path).probabilities
    expected = predictor(DIGITS[1]).probabilities
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_an_enlarged_image_has_the_same_most_probable_class(
    predictor: Predictor, tmp_path: Path
) -> None:
    path = png(tmp_path / "a.png", DIGITS[1], scale=20)
    (found,), (expected,) = (predictor.top(image, 1) for image in (path, DIGITS[1]))
    assert found[0] == expected[0]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (500, 400)])
@pytest.mark.parametrize("name", ["1.png", "P.gif", "CMYK.jpg", "RGBA.webp"])
def test_images_of_any_size_and_mode_have_probabilities(
    predictor: Predictor, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    path = tmp_path / name
    Image.effect_noise(size, 50).convert(path.stem).save(path)
    probabilities = predictor(path).probabilities
    assert probabilities.shape == (10,)
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_the_command_predicts_readable_files_and_names_the_others(
    trained: Path, tmp_path: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, missing = (tmp_path / name for name in ("good.png", "bad.png", "missing.jpg"))
    png(good, DIGITS[0])
    bad.write_text("not a picture")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)  # It waits for a writer for ever.
    options = [f"--workdir={trained}", "--top_k=2"]
    images_given = [str(path) for path in (bad, pipe, good, missing)]
    assert exit_status(predict.main, *options, *images_given) == 1
    output, messages = capsys.readouterr()
    path, *answers = output.splitlines()
    assert path == str(good)
    expected = predictors.load(trained).top(DIGITS[0], 2)
    assert [line.split()[1] for line in answers] == [name for name, _ in expected]
    assert f"error: {bad}: not a readable image" in messages
    assert f"error: {missing}: cannot be read: No such file" in messages
    assert f"error: {pipe}: cannot be read: it is no regular file" in messages
    assert "Traceback" not in messages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of five digits in two subfolders, with an unreadable and two ignored files."""
    result = tmp_path / "pictures"
    for name in ("a/1.png", "a/2.PNG", "b/3.jpg", "b/4.bmp", "0.png"):
        path = result / name
        path.parent.mkdir(parents=True, exist_ok=True)
        png(path, DIGITS[int(path.stem)])
    (result / "b" / "bad.png").write_text("not a picture")
    (result / "b" / "notes.txt").touch()
    (result / ".hidden.png").touch()
    return result


FILES = ["0.png", "a/1.png", "a/2.PNG", "b/3.jpg", "b/4.bmp", "b/bad.png"]


def test_a_folder_is_written_as_a_csv_table(
    trained: Path,
    predictor: Predictor,
    folder: Path,
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = folder.parent / "predictions.csv"
    arguments = [f"--workdir={trained}", f"--out={out}", "--top_k=2", "--batch_size=4"]
    assert exit_status(predict.main, *arguments, str(folder)) == 1
    output, messages = capsys.readouterr()
    assert output == ""
    assert f"error: {folder}/b/bad.png: not a readable image" in messages
    assert "image 6/6" in messages
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["file", "class", "probability", "class_2", "probability_2", "error"]
    assert list(rows[0]) == columns
    assert [row["file"] for row in rows] == [f"{folder}/{name}" for name in FILES]
    *good, bad = rows
    assert "not a readable image" in bad.pop("error")
    assert set(bad.values()) == {bad["file"], ""}
    for row in good:
        expected = predictor.top(row["file"], 2)
        assert [row["class"], row["class_2"]] == [name for name, _ in expected]
        found = [float(row[name]) for name in ("probability", "probability_2")]
        np.testing.assert_allclose(found, [value for _, value in expected], rtol=0, atol=1e-6)
        assert row["error"] == ""


def test_files_and_folders_are_written_as_json(
    trained: Path, folder: Path, exit_status: ExitStatus
) -> None:
    out = folder.parent / "predictions.json"
    last = png(folder.parent / "last.png", DIGITS[5])
    arguments = [f"--workdir={trained}", f"--out={out}", str(folder / "a"), str(last)]
    assert exit_status(predict.main, *arguments) == 0
    rows = json.loads(out.read_text())
    assert [row["file"] for row in rows] == [f"{folder}/a/1.png", f"{folder}/a/2.PNG", str(last)]
    for row in rows:
        assert len(row["classes"]) == 5
        assert list(row["classes"][0]) == ["class", "probability"]
        assert row["error"] == ""


NAMES = [os.fsdecode(b"a\xe9\x1b.png"), "b\ud800\n.png"]


def rows_of_names() -> list[folders.Row]:
    """Returns predictions with names that are not UTF-8, and with control characters."""
    return [
        folders.Row(Path(NAMES[0]), [("cat\x1b[2J\udcff", 0.5)]),
        folders.Row(Path("c.png"), [], f"{NAMES[1]}: damaged"),
    ]


def test_names_of_any_bytes_are_printed(
    exit_status: ExitStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(predictors, "load", lambda *_, **__: SimpleNamespace(notes=["\x1b"]))
    monkeypatch.setattr(folders, "classify", lambda *_: iter(rows_of_names()))
    assert exit_status(predict.main, "--model=resnet18", NAMES[0]) == 1
    output, messages = (stream.buffer.getvalue().decode() for stream in streams)
    assert output == "a\\xe9\\x1b.png\n  0.5000  cat\\x1b[2J\\udcff\n"
    assert messages == "resnet18: \\x1b\nerror: b\\ud800\\n.png: damaged\n"


@pytest.mark.parametrize("ending", folders.FORMATS)
def test_tables_are_valid_text_whatever_the_names_are(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    folders.write(path, rows_of_names())
    text = path.read_bytes().decode()
    rows: Any = json.loads(text) if ending == ".json" else list(csv.DictReader(io.StringIO(text)))
    names = [rows[0]["file"], rows[1]["error"]]
    names.append(rows[0]["classes"][0]["class"] if ending == ".json" else rows[0]["class"])
    expected = ["a\\xe9\x1b.png", "b\\ud800\n.png: damaged", "cat\x1b[2J\\udcff"]
    # JSON has escape sequences of its own. A CSV file is shown in terminals as it is.
    assert names == (expected if ending == ".json" else list(map(errors.printable, expected)))
    json.dumps(rows, ensure_ascii=False).encode()  # has no lone surrogate


def test_a_folder_is_printed_without_out(
    trained: Path, folder: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(predict.main, f"--workdir={trained}", "--top_k=1", str(folder)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == [f"{folder}/{name}" for name in FILES[:-1]]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("there.csv", "there.csv exists and is not overwritten; choose another --out"),
        ("table.xlsx", "--out must end in .csv or .json, got"),
        ("nowhere/a.csv", "nowhere/a.csv does not exist; make it first"),
    ],
)
def test_an_out_that_cannot_be_written_is_refused_before_the_network_is_loaded(
    tmp_path: Path,
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
    out: str,
    message: str,
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    assert exit_status(predict.main, "--workdir=nowhere", f"--out={tmp_path / out}", "a.png") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top_k=0"], "--top_k must be at least 1, got 0"),
        (["--checkpoint=7"], "unknown checkpoint '7'"),
        (["--workdir=nowhere"], "nowhere is not a work directory"),
        (["--batch_size=0"], "batch_size must be at least 1, got 0"),
        (["--model=resnet51.a1_in1k"], "give either --workdir, or --model, --weights or both"),
        (["--weights=a.pth"], "give either --workdir, or --model, --weights or both"),
    ],
)
def test_the_command_fails_with_one_message(
    trained: Path,
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert exit_status(predict.main, f"--workdir={trained}", *arguments, "a.png") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --workdir, or --model, --weights or both"),
        (["--model=resnet50"], "'resnet50' is a network, not a checkpoint; pass 'resnet50.TAG'"),
        (["--weights=a.pth"], "a.pth cannot be read: No such file"),
        (["--weights=a.pth", "--model=resnet50"], "a.pth cannot be read: No such file"),
        (["--weights=a.pth", "--checkpoint=best"], "--checkpoint is for --workdir"),
    ],
)
def test_published_weights_fail_with_one_message(
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert exit_status(predict.main, *arguments, "a.png") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_the_command_explains_itself(
    exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(predict.main, "--help") == 0
    output = capsys.readouterr().out
    for flag in ("--workdir", "--checkpoint", "--model", "--weights", "--top_k", "--out"):
        assert flag in output


def test_help_does_not_import_jax() -> None:
    assert_help_is_light("cnn_jax.predict")


def test_a_folder_without_images_is_refused(
    trained: Path, tmp_path: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    assert exit_status(predict.main, f"--workdir={trained}", str(tmp_path)) == 1
    assert f"no image file in {tmp_path} or its folders" in capsys.readouterr().err
