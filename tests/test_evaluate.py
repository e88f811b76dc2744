"""Tests of the evaluation of a run: results, files, and the command."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnn_jax import errors, evaluate
from cnn_jax.evaluators import of_run
from cnn_jax.runs import checkpoint, logs, workdir

ROOT = Path(__file__).parents[1]
# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]

ExitStatus = Callable[..., int | str | None]


def listing(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


def table(output: str) -> dict[str, str]:
    """Returns the rows of an aligned table of two columns, by the first column."""
    lines = output.splitlines()
    width = max(len(line.partition("  ")[0].rstrip()) for line in lines) + 2
    for line in lines:
        assert line[width - 2 : width] == "  "
        assert line[width] != " "
    rows = {line[:width].rstrip(): line[width:] for line in lines}
    assert len(rows) == len(lines)
    return rows


@pytest.mark.parametrize("split", ["validation", "test"])
def test_counts_are_the_same_at_any_batch_size(trained: Path, split: str) -> None:
    results = [of_run.run(trained, split, "last", size) for size in (1, 7, 128, 2000)]
    for result in results[1:]:
        np.testing.assert_array_equal(result.confusion, results[0].confusion)
        assert result.values["top1"] == results[0].values["top1"]
        assert result.values["top5"] == results[0].values["top5"]
        assert result.values["loss"] == pytest.approx(results[0].values["loss"], rel=1e-5)


def test_the_written_result_is_consistent_with_the_confusion_matrix(trained: Path) -> None:
    evaluation = of_run.run(trained, "test", "best")
    assert evaluation.path == trained / "evaluation-test-best.json"
    content = json.loads(evaluation.path.read_text())
    confusion = np.array(content["confusion"])
    np.testing.assert_array_equal(confusion, evaluation.confusion)
    assert confusion.sum() == content["examples"] == 360
    assert content["top1"] == pytest.approx(confusion.trace() / 360)
    assert content["top1"] <= content["top5"] <= 1
    per_class = content["per_class_accuracy"]
    assert list(per_class) == list("0123456789")
    assert per_class == evaluation.class_accuracies
    expected = confusion.diagonal() / confusion.sum(1)
    assert list(per_class.values()) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("which", ["best", "last", "first"])
def test_the_written_result_names_the_step_of_the_checkpoint(trained: Path, which: str) -> None:
    validations = [row for row in logs.read(trained) if row["split"] == "validation"]
    best = max(validations, key=lambda row: (row["top1"], row["step"]))["step"]
    available = checkpoint.steps(trained / workdir.CHECKPOINTS)
    step = {"best": best, "last": available[-1], "first": available[0]}[which]
    name = str(step) if which == "first" else which
    evaluation = of_run.run(trained, "validation", name)
    assert evaluation.step == step
    content = json.loads((trained / f"evaluation-validation-{name}.json").read_text())
    assert content["checkpoint_step"] == step


def test_the_confusion_matrix_is_drawn(trained: Path) -> None:
    of_run.run(trained, "validation", "best")
    with Image.open(trained / "evaluation-validation-best.png") as picture:
        assert min(picture.size) > 100
        assert picture.format == "PNG"


def test_the_title_of_the_plot_names_network_data_split_and_step(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *_, **__: titles.append(self.axes[0].get_title())
    )
    evaluation = of_run.run(trained, "validation", "last")
    assert titles == [f"lenet, digits, validation, step {evaluation.step}"]


def test_the_last_checkpoint_gives_the_test_accuracy_of_the_log(trained: Path) -> None:
    (row,) = (row for row in logs.read(trained) if row["split"] == "test")
    evaluation = of_run.run(trained, "test", "last")
    assert evaluation.step == row["step"]
    assert evaluation.values["top1"] == pytest.approx(row["top1"], abs=1e-9)
    assert evaluation.values["loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert evaluation.values["top1"] > 0.5


def test_the_best_checkpoint_has_the_highest_validation_accuracy(trained: Path) -> None:
    best = max(row["top1"] for row in logs.read(trained) if row["split"] == "validation")
    assert of_run.run(trained, "validation", "best").values["top1"] == pytest.approx(best)


def test_a_step_names_its_checkpoint(trained: Path) -> None:
    first, *_, last = checkpoint.steps(trained / workdir.CHECKPOINTS)
    values = {which: of_run.run(trained, "test", which).values for which in (str(first), "last")}
    assert values["last"] == of_run.run(trained, "test", str(last)).values
    assert values["last"] != values[str(first)]


@pytest.mark.parametrize(
    ("split", "which", "batch_size", "message"),
    [
        ("tset", "best", 0, "unknown split 'tset'; did you mean 'test'"),
        ("test", "bets", 0, "unknown checkpoint 'bets'; did you mean 'best'"),
        ("test", "999", 0, "unknown checkpoint '999'.* allowed: .*last"),
        ("test", "best", -1, "batch size must be at least 1, got -1"),
    ],
)
def test_a_bad_value_is_named_and_changes_nothing(
    trained: Path, split: str, which: str, batch_size: int, message: str
) -> None:
    before = listing(trained)
    with pytest.raises(errors.UserError, match=message):
        of_run.run(trained, split, which, batch_size)
    assert listing(trained) == before


def test_a_data_set_with_other_classes_is_refused(trained: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(trained, tmp_path / "run")
    content = json.loads((directory / workdir.DATASET).read_text())
    content["class_names"][0] = "zero"
    (directory / workdir.DATASET).write_text(json.dumps(content))
    before = listing(directory)
    with pytest.raises(
        errors.UserError,
        match="the data set has changed since the run began: the classes are not the run's",
    ):
        of_run.run(directory, "test", "best")
    assert listing(directory) == before


@pytest.mark.parametrize("name", ["", "nowhere", "file"])
def test_another_directory_is_named_and_left_unchanged(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    before = listing(tmp_path)
    with pytest.raises(errors.UserError, match=f"{tmp_path / name} is not a work directory"):
        of_run.run(tmp_path / name, "test", "best")
    assert listing(tmp_path) == before


def test_the_command_prints_one_aligned_table(
    trained: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(evaluate.main, f"--workdir={trained}", "--batch_size=100") == 0
    output, messages = capsys.readouterr()
    assert messages == ""
    path = trained / "evaluation-test-best.json"
    content = json.loads(path.read_text())
    assert table(output) == {
        "checkpoint": f"step {content['checkpoint_step']}, the best by validation",
        "split": "test, 360 examples",
        "loss": f"{content['loss']:.4f}",
        "top1": f"{content['top1']:.4f}",
        "top5": f"{content['top5']:.4f}",
        **{f"class {k}": f"{value:.4f}" for k, value in content["per_class_accuracy"].items()},
        "written": f"{path}, {path.with_suffix('.png')}",
    }


@pytest.mark.parametrize(("which", "words"), [("last", "the last"), ("20", "as given")])
def test_the_command_names_the_checkpoint(
    trained: Path,
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
    which: str,
    words: str,
) -> None:
    arguments = [f"--workdir={trained}", f"--checkpoint={which}", "--split=validation"]
    assert exit_status(evaluate.main, *arguments) == 0
    rows = table(capsys.readouterr().out)
    step = checkpoint.steps(trained / workdir.CHECKPOINTS)[-1] if which == "last" else which
    assert rows["checkpoint"] == f"step {step}, {words}"
    assert rows["split"] == "validation, 144 examples"
    assert rows["written"].startswith(f"{trained}/evaluation-validation-{which}.json, ")


def test_the_command_gives_the_test_accuracy_of_the_log_for_the_last_checkpoint(
    trained: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(evaluate.main, f"--workdir={trained}", "--checkpoint=last") == 0
    rows = table(capsys.readouterr().out)
    (row,) = (row for row in logs.read(trained) if row["split"] == "test")
    assert rows["checkpoint"] == f"step {row['step']}, the last"
    assert rows["top1"] == f"{row['top1']:.4f}"
    assert rows["top5"] == f"{row['top5']:.4f}"


def test_the_table_has_the_names_of_the_classes(
    trained: Path,
    exit_status: ExitStatus,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names, confusion = ("T-shirt/top", "Bag", "Ankle boot"), np.array([[9, 1, 0], [0] * 3, [2] * 3])
    evaluation = of_run.Evaluation({"loss": 0.25}, confusion, names, 7, Path("a.json"))
    monkeypatch.setattr(of_run, "run", lambda *_: evaluation)
    assert exit_status(evaluate.main, f"--workdir={trained}") == 0
    assert table(capsys.readouterr().out) == {
        "checkpoint": "step 7, the best by validation",
        "split": "test, 16 examples",
        "loss": "0.2500",
        "class T-shirt/top": "0.9000",
        "class Bag": "no example",
        "class Ankle boot": "0.3333",
        "written": "a.json, a.png",
    }


def test_the_command_shows_its_progress_in_a_terminal(
    trained: Path,
    exit_status: ExitStatus,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert exit_status(evaluate.main, f"--workdir={trained}", "--batch_size=200") == 0
    assert capsys.readouterr().err == "".join(
        f"\r{done} of 2 batches{end}" for done, end in ((0, ""), (1, ""), (2, "\n"))
    )


def test_the_command_fails_with_one_message(
    tmp_path: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(evaluate.main, f"--workdir={tmp_path}") == 1
    output, messages = capsys.readouterr()
    assert output == ""
    (message,) = messages.splitlines()
    assert message.startswith(f"error: {tmp_path} is not a work directory")


def test_the_command_explains_itself(
    exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(evaluate.main, "--help") == 0
    output = capsys.readouterr().out
    for flag in ("--workdir", "--checkpoint", "--split", "--batch_size"):
        assert flag in output


def test_help_does_not_import_jax() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "cnn_jax.evaluate", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: python -m cnn_jax.evaluate")
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "cnn_jax.runtime.console" in imported
    assert "jax" not in imported
