"""The command `export`, folders of weights and their model cards."""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cnn_jax import errors, export, predictor, pretrained, train
from cnn_jax.data import crops
from cnn_jax.export import __main__, history, traced, weights_folder
from cnn_jax.predictor.opening import EvalPreprocessing
from cnn_jax.runs import logs
from tests.export import networks

pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]
Exit = Callable[..., int | str | None]
STORED = Path(__file__).parents[1] / "stored_runs" / "e1b8c15"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A work directory of a commit before version 0.2.0."""
    return Path(shutil.copytree(STORED / "mlp", tmp_path / "mlp"))


def front_matter(card: str) -> dict[str, Any]:
    """Returns the front matter of a card: texts, and lists of texts."""
    found: dict[str, Any] = {}
    _, head, _ = card.split("---\n", 2)
    key = ""
    for line in head.splitlines():
        if line.startswith("- "):
            found.setdefault(key, []).append(line[2:])
        else:
            key, _, value = line.partition(":")
            if value:
                found[key] = value.strip().strip('"')
    return found


def test_a_run_of_an_older_version_is_exported_to_onnx(
    tmp_path: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probabilities are those that the older version computed."""
    run = shutil.copytree(STORED / "resnet", tmp_path / "resnet")
    out = tmp_path / "digits.onnx"
    arguments = [f"--workdir={run}", "--format=onnx", f"--out={out}", "--checkpoint=last"]
    assert exit_status(__main__.main, *arguments) == 0
    assert f"{out}: resnet20, input 12 x 12 x 1, 10 classes" in capsys.readouterr().out
    with Image.open(STORED / "digit.png") as picture:
        image = np.asarray(picture).reshape(*picture.size[::-1], -1)
    crop = predictor.load(run, "last").preprocessing.crop  # type: ignore[attr-defined]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"pixels": crop(image)[np.newaxis]})[0].astype(np.float64)
    expected = json.loads((STORED / "resnet.json").read_text())["predictions"]["last"]
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum()
    np.testing.assert_allclose(probabilities, expected["probabilities"], rtol=0, atol=1e-5)
    assert exit_status(__main__.main, *arguments) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_the_window_of_a_file_for_jax(
    run: Path, tmp_path: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "digits.jax"
    arguments = [f"--workdir={run}", "--format=jax", f"--out={out}", "--platforms=cpu"]
    assert exit_status(__main__.main, *arguments) == 0
    printed = capsys.readouterr().out
    assert f"written by JAX {jax.__version__}; " in printed
    assert "releases up to 6 months newer and up to 3 weeks older than " in printed
    assert "https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees" in printed
    assert out.is_file()
    assert json.loads(Path(f"{out}.json").read_text())["preprocessing"]["outside"]["crop"]


def test_a_folder_of_a_run_has_weights_config_and_card(
    trained: Path, tmp_path: Path, exit_status: Exit
) -> None:
    out = tmp_path / "digits"
    arguments = [f"--workdir={trained}", "--format=safetensors", f"--out={out}"]
    assert exit_status(__main__.main, *arguments, "--license=apache-2.0") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "config.json", "model.safetensors"),
    ]
    network, found = predictor.load(trained), predictor.load(out)
    images = np.random.default_rng(0).random((4, *network.input_shape), np.float32)
    batch = {"image": jax.numpy.asarray(images)}
    np.testing.assert_array_equal(
        found.predict(found.variables, batch)["logits"],
        network.predict(network.variables, batch)["logits"],
    )
    assert found.class_names == network.class_names
    card = (out / "README.md").read_text()
    matter = front_matter(card)
    assert matter["license"] == "apache-2.0"
    assert matter["library_name"] == "cnn_jax"
    assert matter["pipeline_tag"] == "image-classification"
    assert "image-classification" in matter["tags"]
    assert matter["metrics"] == ["accuracy"]
    past = history.read(trained)
    assert past.command
    assert past.command in card
    assert past.finished
    rows = [row for row in logs.read(trained) if row["split"] == "validation"]
    best = next(row for row in rows if row["step"] == past.step)
    assert f"| validation | {best['top1']:.4f} |" in card


def test_a_run_of_an_older_version_has_a_card_without_a_command(run: Path, tmp_path: Path) -> None:
    network = predictor.load(run, "last")
    past = history.read(run, "last")
    export.to_safetensors(network, tmp_path / "out", history=past)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "not recorded: the run is of a version before 0.2.0" in card
    assert "The log has no final line: the training did not end." in card
    assert "model.activation = tanh" in card
    assert front_matter(card)["license"] == "other"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["options"]["activation"] == "tanh"
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    kernel = network.variables["params"]["output"]["kernel"]
    np.testing.assert_array_equal(tensors["params.output.kernel"], np.asarray(kernel))


@pytest.mark.parametrize(
    ("resize", "native_size", "words"),
    [
        ("pad", (8, 6), "pads its images of 8 x 6 pixels to 28 x 28"),
        ("bilinear", (8, 6), "scales every image to 8 x 6 pixels, the size of its stored images"),
        ("bilinear", (28, 28), None),
        ("bilinear", None, None),
    ],
)
def test_a_run_whose_images_are_stored_in_another_size_has_a_note(
    resize: str, native_size: tuple[int, int] | None, words: str | None
) -> None:
    crop = crops.Fit(native_size, (28, 28, 1), resize)
    prepare = EvalPreprocessing(crop, (0.5,), (0.5,))
    network = dataclasses.replace(networks.make("lenet", 28), preprocessing=prepare)
    found = traced.notes(network)
    assert len(found) == (words is not None)
    assert all(words in note for note in found if words)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on digits of 8 x 8 pixels, scaled to 12 x 12; its average ranks checkpoints."""
    directory = tmp_path_factory.mktemp("averaged")
    config: dict[str, Any] = {
        "model.name": "mlp",
        "data.source": "digits",
        "data.resize": "bilinear",
        "data.image_size": 12,
        "train.steps": 4,
        "checkpoint.every_steps": 4,
        "ema.decay": 0.999,
        "eval.weights": "average",
    }
    train.run(config, directory, progress=False)
    return directory


@pytest.mark.parametrize(
    ("flags", "prefix"), [([], "average/"), (["--average"], "average/"), (["--no-average"], "")]
)
def test_a_card_has_the_metrics_of_the_exported_weights(
    flags: list[str], prefix: str, averaged: Path, tmp_path: Path, exit_status: Exit
) -> None:
    out = tmp_path / "out"
    arguments = [f"--workdir={averaged}", "--format=safetensors", f"--out={out}", *flags]
    assert exit_status(__main__.main, *arguments) == 0
    card = (out / "README.md").read_text()
    assert f"Weights of step 4 ({'average' if prefix else 'raw'})." in card
    assert front_matter(card)["metrics"] == ["accuracy"]
    (test,) = (row for row in logs.read(averaged) if row["split"] == "test")
    assert test["loss"] != test["average/loss"]
    names = ("top1", "top5", "loss")
    values = " | ".join(f"{test[prefix + name]:.4f}" for name in names)
    assert f"| split | {' | '.join(names)} |" in card
    assert f"| test | {values} |" in card


@pytest.mark.parametrize("form", ["jax", "onnx", "safetensors"])
def test_an_export_says_that_it_does_not_scale_to_the_stored_size(
    form: str,
    averaged: Path,
    tmp_path: Path,
    exit_status: Exit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With pixels that are scaled as the note says, the logits are those of the run."""
    out = tmp_path / ("out" if form == "safetensors" else f"out.{form}")
    assert (
        exit_status(__main__.main, f"--workdir={averaged}", f"--format={form}", f"--out={out}") == 0
    )
    note = "the run scales every image to 8 x 8 pixels, the size of its stored images, and then to"
    assert f"{out}: {note} 12 x 12; " in capsys.readouterr().err
    if form == "safetensors":
        assert f"- note: {note} 12 x 12; " in (out / "README.md").read_text()
    network = predictor.load(averaged)
    images = networks.pixels(network, 3)
    scaled = network.undo(network.preprocess(images))

    def logits(pixels: np.ndarray) -> np.ndarray:
        if form == "jax":
            return np.asarray(jax.export.deserialize(bytearray(out.read_bytes())).call(pixels))
        if form == "onnx":
            session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
            return np.asarray(session.run(None, {"pixels": pixels})[0])
        return predictor.load(out)(pixels).logits

    expected = network(images).logits
    np.testing.assert_allclose(logits(scaled), expected, rtol=0, atol=1e-5)
    assert abs(logits(images) - expected).max() > 1e-2


def test_a_network_of_timm_has_the_config_of_timm(tmp_path: Path) -> None:
    network = networks.make("vit_tiny_patch16_224", 32)
    export.to_safetensors(network, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["model_args"] == {"img_size": [32, 32]}
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert front_matter((tmp_path / "out" / "README.md").read_text())["library_name"] == "timm"
    found = pretrained.load(tmp_path / "out")
    assert found.preprocessing == network.preprocessing
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["head.weight"].shape == (7, 192)  # the name and the layout of timm


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (224, 248), (299, 333), (260, 292)])
def test_the_share_of_the_crop_gives_timm_the_same_size(size: int, resize: int) -> None:
    prepare = pretrained.Preprocessing(size, resize, ("a", "b"))
    found = pretrained.preprocessing.from_timm(
        {"input_size": [3, size, size], "crop_pct": weights_folder.share(prepare)}, 2
    )
    assert found.resize_size == resize


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=resnet18", "--out=a.onnx"], "--format and --out are needed"),
        (["--format=onnx", "--out=a.onnx"], "give either --workdir, or --model"),
        (["--workdir=.", "--format=onnx", "--out=a.jax"], "--out must end in .onnx, got a.jax"),
        (["--workdir=.", "--format=jax", "--out=b/a.jax"], "the folder of --out b/a.jax does not"),
        (["--workdir=.", "--format=safetensors", "--out=."], ". exists and is not overwritten"),
        (["--workdir=.", "--format=jax", "--out=a.jax", "--license=mit"], "--license is for the"),
        (["--workdir=.", "--format=onnx", "--out=a.onnx", "--platforms=cpu"], "--platforms is for"),
        (["--workdir=.", "--format=jax", "--out=a.jax", "--platforms=gpu"], "unknown platform"),
        (["--workdir=.", "--format=safetensors", "--out=a", "--license=a: b"], "--license must be"),
        (["--workdir=.", "--format=onnx", "--out=a.onnx"], "no config.json"),
    ],
)
def test_the_command_fails_with_one_message(
    arguments: list[str],
    message: str,
    refusal: Callable[..., str],
) -> None:
    error = refusal(__main__.main, *arguments)
    assert message in error
    assert error.count("error:") == 1


@pytest.mark.parametrize(
    ("path", "size", "message"),
    [
        ("config.json", None, "mlp is not a work directory: no config.json in it"),
        ("dataset.json", None, "mlp is not a work directory: no dataset.json in it"),
        ("checkpoints", None, "no checkpoint in "),
        ("config.json", 99, "config.json is damaged: not JSON: "),
        ("dataset.json", 99, "dataset.json is damaged: not JSON: "),
        ("checkpoints/30/state/_METADATA", 9, "checkpoint 30 is damaged: "),
    ],
)
def test_a_damaged_run_says_in_one_line_what_is_missing(
    path: str,
    size: int | None,
    message: str,
    run: Path,
    exit_status: Exit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = run / path
    if size is not None:
        place.write_bytes(place.read_bytes()[:size])
    elif place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    arguments = [f"--workdir={run}", "--format=safetensors", f"--out={run.parent / 'out'}"]
    assert exit_status(__main__.main, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (run.parent / "out").exists()


def test_an_error_leaves_no_part_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise errors.UserError("the disk is full")

    monkeypatch.setattr("cnn_jax.export.card.write", fail)
    with pytest.raises(errors.UserError, match=re.escape("the disk is full")):
        export.to_safetensors(networks.make("fashion_cnn", 28), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("form", "package"), [("jax", "flatbuffers"), ("onnx", "onnx")])
def test_a_package_that_is_missing_is_named_before_the_run_is_read(
    form: str,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exit_status: Exit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / f"network.{form}"
    assert exit_status(__main__.main, "--workdir=none", f"--format={form}", f"--out={out}") == 1
    error = capsys.readouterr().err
    assert f"the format {form} needs the package {package} (" in error
    assert f"install it with: pip install {package}\n" in error
