"""Tests of `python -m cnn_jax.inspect`: flags, messages and pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax.inspect import __main__

Exit = Callable[..., int | str | None]
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def check_picture(path: Path) -> None:
    with Image.open(path) as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 10


JOBS = {
    "filters": (False, "C1: 6 kernels of the shape [5, 5, 1]"),
    "maps --stage=C1 --channels=3": (True, "C1: 6 maps of 28 x 28"),
    "cam --target=3": (True, "stage S4"),
    "gradients --target=3 --steps=4": (True, "digit.png: 3, logit"),
    "occlusion --target=3 --window=16 --stride=16": (True, "digit.png: 3, largest drop"),
    "norms --target=3": (True, "C1"),
    "relus": (True, "units are 0"),
    "field --stage=C1": (False, "C1: effective receptive field"),
    "surface --target=3 --points=3": (True, "on 3^2 points"),
    "check": (False, "11 of 11 arrays have a right gradient"),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", JOBS, ids=lambda words: words.partition(" ")[0])
def test_each_job_draws_its_picture(
    tmp_path: Path, photo: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    job, *flags = words.split()
    with_images, text = JOBS[words]
    images = [str(photo)] if with_images else []
    out = tmp_path / "picture.png"
    assert exit_status(__main__.main, job, "--model=lenet", *images, *flags, f"--out={out}") == 0
    assert text in capsys.readouterr().out
    check_picture(out)


@pytest.mark.slow
def test_a_run_is_inspected(trained: Path, tmp_path: Path, photo: Path, exit_status: Exit) -> None:
    out = tmp_path / "cam.png"
    arguments = ["cam", str(photo), f"--workdir={trained}", f"--out={out}"]
    assert exit_status(__main__.main, *arguments) == 0
    check_picture(out)
    out = tmp_path / "rates.png"
    arguments = ["rates", f"--workdir={trained}", "--steps=20", f"--out={out}"]
    assert exit_status(__main__.main, *arguments) == 0
    check_picture(out)


@pytest.mark.slow
def test_learning_curves_are_drawn(
    tmp_path: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curve.png"
    arguments = ["--config=configs/quickstart.py", "--config.train.epochs=1", "--shares=10,100"]
    assert exit_status(__main__.main, "curve", *arguments, f"--out={out}") == 0
    assert "examples: top-1 error" in capsys.readouterr().out
    check_picture(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cam", "--model=lenet", "a.png"], "--out is missing"),
        (["cam", "--model=lenet", "a.png", "--out=a.jpg"], "--out must end in .png"),
        (["cam", "--model=lenet", "--out=a.png"], "cam needs images"),
        (["check", "--model=lenet", "a.png", "--out=b.png"], "check reads no images, got a.png"),
        (
            ["norms", "--model=lenet", "a.png", "--stage=C1", "--out=b.png"],
            "--stage is for maps and",
        ),
        (["cam", "a.png", "--out=b.png"], "give either --workdir, or --model, --weights or both"),
        (["rates", "--model=lenet", "--out=b.png"], "rates needs either --config or --workdir"),
        (
            ["check", "--model=lenet", "--config.seed=1", "--out=b.png"],
            "--config.seed=1 is not a flag",
        ),
        (
            ["curve", "--config=quickstart", "--shares=a", "--out=b.png"],
            "--shares must be percentages",
        ),
        (["cam", "--model=lenett", "a.png", "--out=b.png"], "lenett"),
    ],
)
def test_wrong_flags_are_refused(
    arguments: list[str], message: str, refusal: Callable[..., str]
) -> None:
    assert message in refusal(__main__.main, *arguments)
