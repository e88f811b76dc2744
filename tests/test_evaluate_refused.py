"""Mistakes in the request of an evaluation, which are named and change nothing; its help."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_jax import errors, evaluate
from cnn_jax.evaluators import of_run
from cnn_jax.runs import workdir
from tests.outputs import assert_help_is_light, listing

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]

ExitStatus = Callable[..., int | str | None]


def assert_refused(
    trained: Path,
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Asserts that the command fails and writes nothing; RUN stands for `trained`."""
    before = listing(trained)
    given = [argument.replace("RUN", str(trained)) for argument in arguments]
    assert exit_status(evaluate.main, *given) == 1
    assert message in capsys.readouterr().err
    assert listing(trained) == before


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.flip=true"], "data.flip is the run's and cannot be changed for an evalu"),
        (["--config.model.activation=relu"], "model.activation is the run's and cannot be changed"),
        (["--config.data.sorce=npz"], "unknown config key 'data.sorce'; nearest: data.source"),
        (["--splt=test"], "unknown flag '--splt'; nearest: --split"),
        (
            ["--config.data.eval_crop=big"],
            "data.eval_crop must be fit or centre, or empty, got 'big'",
        ),
        (["--config.data.shorter_side=8"], "data.shorter_side must be at least 32 pixels"),
        (["--config.data.source=npz"], "data.directory is missing"),
        (["--config.data.classes=0,1"], "the data set has other classes than the network (2 and"),
        (
            ["--config.data.classes=0,1,2,3,4,5,6,7,8,9", "--split=validation"],
            "unknown split 'validation'",
        ),
        (["--out=result.txt"], "--out must end in .json, got result.txt"),
        (["--out=nowhere/a.json"], "the folder of --out nowhere/a.json does not exist"),
        (["--out=RUN/config.json"], "config.json exists and is not overwritten; choose another"),
        (["--out=RUN/curves.json"], "curves.png exists and is not overwritten; choose another"),
    ],
)
def test_what_an_evaluation_may_not_do_is_named(
    trained: Path,
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert_refused(trained, exit_status, capsys, ["--workdir=RUN", *arguments], message)


def test_the_command_fails_with_one_message(
    tmp_path: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(evaluate.main, f"--workdir={tmp_path}") == 1
    output, messages = capsys.readouterr()
    assert output == ""
    (message,) = messages.splitlines()
    assert message.startswith(f"error: {tmp_path} is not a work directory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --workdir, or --model, --weights or both"),
        (["--weights=a", "--workdir=b"], "give either --workdir, or --model, --weights or both"),
        (["--weights=a"], "published weights have no data set; name one, such as --config.data"),
        (["--weights=a", "--checkpoint=last"], "--checkpoint is for --workdir"),
        (["--weights=a", "--veiws=mirrored"], "unknown flag '--veiws'; nearest: --views"),
        (["--weights=a", "--config.data.flip=true"], "data.flip is that of the published weights"),
        (["--weights=a", "--config.data.split=stratified"], "data.split is that of the published"),
        (["--workdir=RUN", "--views=four"], "unknown --views 'four'"),
        (["--workdir=RUN,nowhere"], "nowhere is not a work directory"),
        ([f"--workdir={','.join(['nowhere'] * 50)}"], "nowhere is not a work directory"),
        (["--workdir=RUN", "--soup=uniform"], "--soup averages the weights of several networks"),
        (["--workdir=RUN", "--severities=1"], "--severities is for --corruptions"),
    ],
)
def test_mistakes_in_the_flags_are_named(
    trained: Path,
    exit_status: ExitStatus,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert_refused(trained, exit_status, capsys, arguments, message)


def test_the_command_explains_itself(
    exit_status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(evaluate.main, "--help") == 0
    output = capsys.readouterr().out
    usual = ("--workdir", "--checkpoint", "--split", "--batch_size", "--out")
    further = ("--weights", "--views", "--calibrate", "--answers", "--subset", "--against", "--csv")
    averaged = ("--soup", "--statistics_split")
    for flag in (*usual, *further, *averaged, "--corruptions", "--severities"):
        assert flag in output


def test_help_does_not_import_jax() -> None:
    assert_help_is_light("cnn_jax.evaluate")
