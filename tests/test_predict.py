import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from cnn_jax import data, errors, predict
from cnn_jax.data import images
from cnn_jax.data.sources import digits
from cnn_jax.runs import workdir
from cnn_jax.runtime import console

ROOT = Path(__file__).parent.parent
DIGITS = np.asarray(digits.source().read("test", 0, 10).images)  # [10, 8, 8, 1]


@pytest.fixture(scope="module")
def predictor(trained: Path) -> predict.Predictor:
    return predict.load(trained)


def png(path: Path, image: np.ndarray, mode: str = "L", scale: int = 1) -> Path:
    picture = Image.fromarray(image[..., 0])
    width, height = picture.size
    picture.resize((width * scale, height * scale), Image.Resampling.BOX).convert(mode).save(path)
    return path


def test_a_file_is_answered_as_the_dataset_s_own_image(
    trained: Path, predictor: predict.Predictor, tmp_path: Path
) -> None:
    files = [png(tmp_path / f"{i}.png", image) for i, image in enumerate(DIGITS)]
    found = predictor.probabilities([images.read_file(file, 1) for file in files])
    config = workdir.load(trained, workdir.CONFIG)
    dataset = data.make(**config["data"], batch_size=8, seed=0)
    batch = dataset.eval_batch(next(dataset.eval_inputs("test", len(DIGITS))))
    logits: Any = predictor.model.apply(predictor.variables, batch["image"], train=False)
    expected = np.asarray(jax.nn.softmax(logits))[: len(DIGITS)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_many_pictures_are_answered_as_one_at_a_time(predictor: predict.Predictor) -> None:
    each = [predictor.probabilities([image])[0] for image in DIGITS]
    np.testing.assert_allclose(predictor.probabilities(list(DIGITS)), each, rtol=0, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 10, 20])
def test_the_likeliest_classes_come_first(predictor: predict.Predictor, top_k: int) -> None:
    (probabilities,) = predictor.probabilities([DIGITS[0]])
    answer = predictor.top(DIGITS[0], top_k)
    assert [value for _, value in answer] == sorted(probabilities.tolist(), reverse=True)[:top_k]
    for name, value in answer:
        assert value == probabilities[int(name)]
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16"])
def test_the_mode_of_a_file_does_not_change_the_answer(
    predictor: predict.Predictor, tmp_path: Path, mode: str
) -> None:
    path = png(tmp_path / "a.png", DIGITS[1], "L" if mode == "I;16" else mode)
    if mode == "I;16":
        Image.fromarray(DIGITS[1, ..., 0].astype(np.uint16) * 257).save(path)
    found = predictor.probabilities([images.read_file(path, 1)])
    expected = predictor.probabilities([DIGITS[1]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_an_enlarged_picture_gets_the_same_answer(
    predictor: predict.Predictor, tmp_path: Path
) -> None:
    path = png(tmp_path / "a.png", DIGITS[1], scale=20)
    (found,), (expected,) = (
        predictor.top(image, 1) for image in (images.read_file(path, 1), DIGITS[1])
    )
    assert found[0] == expected[0]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (500, 400)])
@pytest.mark.parametrize("name", ["1.png", "P.gif", "CMYK.jpg", "RGBA.webp"])
def test_any_size_and_mode_is_answered(
    predictor: predict.Predictor, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    path = tmp_path / name
    Image.effect_noise(size, 50).convert(path.stem).save(path)
    probabilities = predictor.probabilities([images.read_file(path, 1)])
    assert probabilities.shape == (1, 10)
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_the_command_answers_the_good_files_and_names_the_bad(
    trained: Path, tmp_path: Path
) -> None:
    good, bad, missing = (tmp_path / name for name in ("good.png", "bad.png", "missing.jpg"))
    png(good, DIGITS[0])
    bad.write_text("not a picture")
    options = [f"--workdir={trained}", "--top_k=2"]
    result = subprocess.run(
        [sys.executable, "-m", "cnn_jax.predict", *options, bad, good, missing],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    path, *answers = result.stdout.splitlines()
    assert path == str(good)
    expected = predict.load(trained).top(DIGITS[0], 2)
    assert [line.split()[1] for line in answers] == [name for name, _ in expected]
    assert f"error: {bad}: not a readable image" in result.stderr
    assert f"error: {missing}: no such file" in result.stderr
    assert "Traceback" not in result.stderr


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit status of the command."""
    monkeypatch.setattr("sys.argv", ["predict", *arguments])
    with pytest.raises(SystemExit) as exit_:
        console.exit_with(predict.main)
    return exit_.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top_k=0"], "--top_k must be at least 1, got 0"),
        (["--checkpoint=7"], "unknown checkpoint '7'"),
        (["--workdir=nowhere"], "nowhere is not a work directory"),
        (["--model=resnet51.a1_in1k"], "give either --workdir, or --model, --weights or both"),
        (["--weights=a.pth"], "give either --workdir, or --model, --weights or both"),
    ],
)
def test_the_command_fails_with_one_message(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert status(monkeypatch, f"--workdir={trained}", *arguments, "a.png") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --workdir, or --model, --weights or both"),
        (["--model=resnet50"], "'resnet50' is a network; its checkpoints are 'resnet50.TAG'"),
        (["--weights=a.pth"], "a.pth does not say for which network it is: give its name"),
        (["--weights=a.pth", "--model=resnet50"], "a.pth cannot be read: No such file"),
        (["--weights=a.pth", "--checkpoint=best"], "--checkpoint is for --workdir"),
    ],
)
def test_published_weights_fail_with_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert status(monkeypatch, *arguments, "a.png") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_the_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "--help") == 0
    assert "--top_k" in capsys.readouterr().out


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=f"{tmp_path} is not a work directory"):
        predict.load(tmp_path)
