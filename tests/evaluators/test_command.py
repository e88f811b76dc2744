"""Tests of `cnn_jax.evaluate` with ensembles, soups, corruptions and published weights."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import errors, evaluate
from cnn_jax.evaluators import results_csv
from cnn_jax.runs import checkpoint, workdir
from tests import figures
from tests.outputs import listing, table
from tests.pretrained import checkpoints

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]

ExitStatus = Callable[..., int | str | None]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets evaluations draw no figures."""
    with figures.stand_in():
        yield


def test_the_command_evaluates_an_ensemble_with_views(
    trained: Path, tmp_path: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    out, results = tmp_path / "a.json", tmp_path / "results.csv"
    arguments = [f"--workdir={trained},{other}", "--checkpoint=last", "--views=mirrored"]
    arguments += ["--calibrate", f"--out={out}", f"--csv={results}"]
    assert exit_status(evaluate.main, *arguments) == 0
    rows = table(capsys.readouterr().out)
    content = json.loads(out.read_text())
    steps = content["checkpoint_steps"]
    low, high = content["intervals"]["top1"]
    calibrated = content["calibration"]
    classes = content["per_class"]
    beside = [out.with_suffix(".npz"), out.with_suffix(".png"), tmp_path / "a-reliability.png"]
    expected = {
        "model": f"{trained} + {other}",
        "checkpoint": f"step {steps[0]}, step {steps[1]}",
        "split": "digits, test, 360 examples",
        "views": "mirrored",
        "mean": "of the probabilities",
        "top1": f"{content['top1']:.4f} ({low:.4f} to {high:.4f})",
        "brier": f"{content['brier']:.4f}",
        "intervals": "95%, 2,000 bootstrap resamples of the examples, seed 0",
        "temperature": f"{calibrated['temperature']:.4f}, fitted on 144 examples of validation",
        "class 3": "precision {precision:.4f}, recall {recall:.4f}, f1 {f1:.4f}".format(
            **classes["3"]
        ),
        "written": ", ".join(map(str, [out, *beside, results])),
    }
    assert {name: rows[name] for name in expected} == expected
    assert len(results.read_text().splitlines()) == 2
    assert exit_status(evaluate.main, f"--workdir={trained}", f"--against={out}") == 0
    rows = table(capsys.readouterr().out)
    assert rows["against"] == str(out)
    assert rows["McNemar's test"].startswith("p = ")
    path = Path(rows["written"].partition(",")[0])
    assert re.fullmatch(r"evaluation-test-scores-[0-9a-f]{8}-best.json", path.name)


def test_the_command_evaluates_a_soup_on_corrupted_images(
    trained: Path, tmp_path: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    before, results = listing(trained), tmp_path / "results.csv"
    steps = checkpoint.steps(trained / workdir.CHECKPOINTS)[-2:]
    arguments = [f"--workdir={trained}", f"--checkpoint={steps[0]},{steps[1]}", "--soup=uniform"]
    arguments += ["--split=test[:10%]", "--corruptions=fog,contrast", "--severities=1,3"]
    arguments += [f"--out={tmp_path / 'a.json'}", f"--csv={results}"]
    assert exit_status(evaluate.main, *arguments) == 0
    rows = table(capsys.readouterr().out)
    content = json.loads((tmp_path / "a.json").read_text())
    titles = [f"{trained} ({step})" for step in steps]
    assert rows["soup"] == f"uniform, of {' + '.join(titles)}"
    assert rows["split"] == "digits, test[:10%], 36 examples"
    found = {(row["corruption"], row["severity"]): row["top1"] for row in content["results"]}
    assert rows["top1"] == f"{found['none', 0]:.4f} without corruptions"
    assert rows["severity"].split() == ["1", "3", "mean"]
    assert rows["top1 fog"].split()[:2] == [f"{found['fog', level]:.4f}" for level in (1, 3)]
    assert rows["mean_error"] == f"{content['mean_error']:.4f}"
    assert rows["written"] == f"{tmp_path / 'a.json'}, {results}"
    assert len(results.read_text().splitlines()) == 6
    assert listing(trained) == before


def test_a_table_that_cannot_be_written_is_an_error(
    trained: Path,
    tmp_path: Path,
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, rows: object) -> None:
        raise errors.UserError(f"{path} cannot be written")

    monkeypatch.setattr(results_csv, "append", refuse)
    results = tmp_path / "results.csv"
    arguments = (f"--workdir={trained}", "--split=test[:10%]", f"--csv={results}")
    assert exit_status(evaluate.main, *arguments) == 1
    assert f"not written: {results} cannot be written" in capsys.readouterr().err


def test_the_command_evaluates_published_weights(
    tmp_path: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = checkpoints.write(tmp_path / "weights", checkpoints.state_dict())
    images = np.random.default_rng(0).integers(0, 256, (12, 50, 60, 3)).astype(np.uint8)
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=np.arange(12) % 10)
    before = listing(tmp_path)
    directory = f"--config.data.directory={tmp_path / 'set.npz'}"
    assert exit_status(evaluate.main, f"--weights={weights}", directory) == 0
    rows = table(capsys.readouterr().out)
    assert (rows["model"], rows["split"]) == (str(weights), "npz set.npz, train, 12 examples")
    assert listing(tmp_path) == before
