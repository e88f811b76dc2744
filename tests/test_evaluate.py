import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax import errors, evaluate
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runtime import console


def listing(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_counts_are_the_same_at_any_batch_size(trained: Path, split: str) -> None:
    results = [evaluate.run(trained, split, "last", size) for size in (1, 7, 128, 2000)]
    for result in results[1:]:
        np.testing.assert_array_equal(result.confusion, results[0].confusion)
        assert result.values["top1"] == results[0].values["top1"]
        assert result.values["top5"] == results[0].values["top5"]
        assert result.values["loss"] == pytest.approx(results[0].values["loss"], rel=1e-5)


def test_the_written_result_is_consistent_with_the_confusion_matrix(trained: Path) -> None:
    evaluate.run(trained, "test", "best")
    content = json.loads((trained / "evaluation-test-best.json").read_text())
    confusion = np.array(content["confusion"])
    assert confusion.sum() == content["examples"] == 360
    assert content["top1"] == pytest.approx(confusion.trace() / 360)
    assert content["top1"] <= content["top5"] <= 1
    per_class = content["per_class_accuracy"]
    assert list(per_class) == list("0123456789")
    expected = confusion.diagonal() / confusion.sum(1)
    assert list(per_class.values()) == pytest.approx(expected.tolist())


def test_the_confusion_matrix_is_drawn(trained: Path) -> None:
    evaluate.run(trained, "validation", "best")
    with Image.open(trained / "evaluation-validation-best.png") as picture:
        assert min(picture.size) > 100
        assert picture.format == "PNG"


def test_the_last_checkpoint_gives_the_test_accuracy_of_the_log(trained: Path) -> None:
    (row,) = (row for row in logs.read(trained) if row["split"] == "test")
    values = evaluate.run(trained, "test", "last").values
    assert values["top1"] == pytest.approx(row["top1"], abs=1e-9)
    assert values["loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert values["top1"] > 0.5


def test_the_best_checkpoint_has_the_highest_validation_accuracy(trained: Path) -> None:
    best = max(row["top1"] for row in logs.read(trained) if row["split"] == "validation")
    assert evaluate.run(trained, "validation", "best").values["top1"] == pytest.approx(best)


def test_a_step_names_its_checkpoint(trained: Path) -> None:
    first, *_, last = checkpoint.steps(trained / workdir.CHECKPOINTS)
    values = {which: evaluate.run(trained, "test", which).values for which in (str(first), "last")}
    assert values["last"] == evaluate.run(trained, "test", str(last)).values
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
        evaluate.run(trained, split, which, batch_size)
    assert listing(trained) == before


@pytest.mark.parametrize("name", ["", "nowhere", "file"])
def test_what_is_no_work_directory_is_named_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    before = listing(tmp_path)
    with pytest.raises(errors.UserError, match=f"{tmp_path / name} is not a work directory"):
        evaluate.run(tmp_path / name, "test", "best")
    assert listing(tmp_path) == before


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit status of the command."""
    monkeypatch.setattr("sys.argv", ["evaluate", *arguments])
    with pytest.raises(SystemExit) as exit_:
        console.exit_with(evaluate.main)
    return exit_.value.code


def test_the_command_prints_the_accuracies_and_where_the_files_are(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, f"--workdir={trained}", "--batch_size=100") == 0
    output = capsys.readouterr().out
    content = json.loads((trained / "evaluation-test-best.json").read_text())
    assert f"top1: {content['top1']:.4f}" in output
    assert str(trained / "evaluation-test-best.json") in output
    assert str(trained / "evaluation-test-best.png") in output


def test_the_command_fails_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, f"--workdir={tmp_path}") == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: {tmp_path} is not a work directory")


def test_the_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "--help") == 0
    assert "--checkpoint" in capsys.readouterr().out
