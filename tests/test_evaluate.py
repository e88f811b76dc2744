"""Tests of the evaluation of a run: results, files, and the command."""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnn_jax import errors, evaluate, predictor
from cnn_jax.data.sources import digits
from cnn_jax.evaluators import of_run
from cnn_jax.runs import checkpoint, logs, plots, workdir
from cnn_jax.runtime import files
from tests import figures
from tests.outputs import listing, table

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]

ExitStatus = Callable[..., int | str | None]
DRAW = plots.confusion


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets evaluations draw no figures."""
    with figures.stand_in():
        yield


def test_counts_are_the_same_at_any_batch_size(trained: Path) -> None:
    results = [of_run.run(trained, "validation", "last", size) for size in (1, 7, 128, 2000)]
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


def test_the_confusion_matrix_is_drawn(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "confusion", DRAW)
    of_run.run(trained, "validation", "best")
    with Image.open(trained / "evaluation-validation-best.png") as picture:
        assert min(picture.size) > 100
        assert picture.format == "PNG"


def test_the_title_of_the_plot_names_network_data_split_and_step(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    monkeypatch.setattr(plots, "confusion", DRAW)
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
    written = (Path("a.json"), Path("a.png"))
    counts, correct = confusion.sum(1), confusion.diagonal()
    evaluation = of_run.Evaluation(
        {"loss": 0.25}, counts, correct, confusion, names, 7, written[0], "", written
    )

    def run(*_: Any, show: Callable[[of_run.Evaluation], None], **__: Any) -> of_run.Evaluation:
        show(evaluation)
        return evaluation

    monkeypatch.setattr(of_run, "run", run)
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


def test_slices_of_a_split_are_evaluated_apart(trained: Path) -> None:
    whole, first, rest = (
        of_run.run(trained, split, "last") for split in ("test", "test[:50%]", "test[50%:]")
    )
    assert first.confusion.sum() == rest.confusion.sum() == 180
    np.testing.assert_array_equal(first.confusion + rest.confusion, whole.confusion)
    paths = [one.path for one in (whole, first, rest)]
    assert len(set(paths)) == 3
    assert re.fullmatch(r"evaluation-test-to-50pct-[0-9a-f]{8}-last.json", first.path.name)
    assert re.fullmatch(r"evaluation-test-50pct-[0-9a-f]{8}-last.json", rest.path.name)
    assert json.loads(first.path.read_text())["split"] == "test[:50%]"
    before = listing(trained)
    assert of_run.run(trained, "test[:50%]", "last").path == first.path
    assert listing(trained) == before


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another data set with the classes of the digits: every third test image, larger."""
    path = tmp_path_factory.mktemp("set") / "photos.npz"
    examples = digits.source().splits["test"]
    indices = range(0, 360, 3)
    images = np.stack([np.kron(examples[i]["image"], np.ones((3, 3, 1))) for i in indices])
    np.savez(path, test_images=images.astype(np.uint8), test_labels=examples.labels()[::3])
    return path


def test_the_command_evaluates_on_another_data_set(
    trained: Path, photos: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in trained.glob("*.json")}
    overrides = ["--config.data.source=npz", f"--config.data.directory={photos}"]
    assert exit_status(evaluate.main, f"--workdir={trained}", *overrides) == 0
    rows = table(capsys.readouterr().out)
    assert rows["data"] == "npz photos.npz"
    assert rows["split"] == "test, 120 examples"
    path = Path(rows["written"].partition(",")[0])
    assert path.parent == trained
    assert re.fullmatch(r"evaluation-test-npz-photos-npz-[0-9a-f]{8}-best.json", path.name), (
        path.name
    )
    content = json.loads(path.read_text())
    assert content["overridden"] == {"data.source": "npz", "data.directory": str(photos)}
    with np.load(photos) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    predicted = predictor.load(trained)(images).logits.argmax(-1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, predicted), 1)
    np.testing.assert_array_equal(content["confusion"], expected)
    assert all(path.read_bytes() == text for path, text in before.items())


def test_the_evaluation_crop_can_be_another(trained: Path, exit_status: ExitStatus) -> None:
    settings = workdir.load_plan(trained)
    section = dataclasses.replace(settings.data, eval_crop="centre", shorter_side=40)
    changed = of_run.run(trained, "test", settings=dataclasses.replace(settings, data=section))
    assert changed.data == ""
    assert changed.confusion.sum() == 360
    assert changed.values != of_run.run(trained, "test").values


def test_out_names_another_file(trained: Path, tmp_path: Path, exit_status: ExitStatus) -> None:
    before = listing(trained)
    out = tmp_path / "mine.json"
    assert exit_status(evaluate.main, f"--workdir={trained}", f"--out={out}") == 0
    assert json.loads(out.read_text())["examples"] == 360
    assert out.with_suffix(".png").exists()
    assert listing(trained) == before


def edited(trained: Path, directory: Path, section: str, key: str, value: object) -> Path:
    """Returns a copy of a run with another value in its config."""
    copy = shutil.copytree(trained, directory / "run")
    content = json.loads((copy / workdir.CONFIG).read_text())
    content[section][key] = value
    (copy / workdir.CONFIG).write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize("has_out", [False, True])
def test_a_read_only_run_prints_its_numbers_and_says_what_was_not_written(
    trained: Path,
    tmp_path: Path,
    exit_status: ExitStatus,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_out: bool,
) -> None:
    def refuse(path: Path, content: str | bytes) -> None:
        raise errors.UserError(f"{path} cannot be written: Read-only file system")

    monkeypatch.setattr(files, "write", refuse)
    out = [f"--out={tmp_path / 'a.json'}"] if has_out else []
    assert exit_status(evaluate.main, f"--workdir={trained}", *out) == int(has_out)
    output, messages = capsys.readouterr()
    assert table(output)["split"] == "test, 360 examples"
    assert "written" not in table(output)
    path = tmp_path / "a.json" if has_out else trained / "evaluation-test-best.json"
    reasons = [f"{each} cannot be written: Read-only" for each in (path, path.with_suffix(".png"))]
    for line, reason in zip(messages.splitlines(), reasons, strict=True):
        assert line.startswith(f"not written: {reason}")


def test_numbers_are_written_where_the_picture_fails(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("Expected end of text")

    monkeypatch.setattr(plots, "confusion", fail)
    evaluation = of_run.run(trained, "test", "last", out=tmp_path / "a.json")
    assert evaluation.written == (tmp_path / "a.json",)
    assert evaluation.unwritten == (f"{tmp_path}/a.png cannot be written: Expected end of text",)


def test_a_data_set_that_was_given_as_an_object_is_given_again(
    trained: Path, tmp_path: Path, photos: Path, exit_status: ExitStatus
) -> None:
    copy = edited(trained, tmp_path, "data", "source", "given")
    with pytest.raises(errors.UserError, match=r"of_run\.run\(.*source=\.\.\.\), or name another"):
        of_run.run(copy, "test")
    found = of_run.run(copy, "test", source=digits.source())
    np.testing.assert_array_equal(found.confusion, of_run.run(trained, "test").confusion)
    overrides = ["--config.data.source=npz", f"--config.data.directory={photos}"]
    assert exit_status(evaluate.main, f"--workdir={copy}", *overrides) == 0


def test_metrics_of_the_config_are_evaluated_too(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "share_of_zeros.py").write_text(
        "def zeros(outputs, batch):\n    return {'share': batch['label'] == 0}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    copy = edited(trained, tmp_path, "eval", "metrics", ["share_of_zeros:zeros"])
    values = of_run.run(copy, "test").values
    assert list(values) == ["loss", "top1", "top5", "zeros/share"]
    labels = digits.source().splits["test"].labels()
    assert values["zeros/share"] == pytest.approx((labels == 0).mean())
