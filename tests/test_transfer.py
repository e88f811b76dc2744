"""The pictures, configs and comparison of `experiments/transfer`."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cnn_jax import config_files, errors, models, objectives, plan, pretrained
from cnn_jax.contracts import Source
from cnn_jax.data import selection
from cnn_jax.evaluators import thorough
from cnn_jax.runtime import patterns
from cnn_jax.train import start
from configs import xception_flowers
from experiments.transfer import compare, sources
from experiments.transfer.compare import Arm, Trial
from tests import figures

needs_stamps = pytest.mark.skipif(
    not Path(sources.TUXPAINT).is_dir(), reason="needs Debian's package tuxpaint-stamps-default"
)
needs_clipart = pytest.mark.skipif(
    not Path(sources.OPENCLIPART).is_dir(), reason="needs Debian's package openclipart-png"
)


def keys(name: str = "", directory: Path | str = "") -> plan.Data:
    return plan.read({"data.name": name, "data.directory": str(directory)}).data


def paths(source: Source) -> list[str]:
    examples = source.splits["train"]
    return [examples.name(index) for index in range(len(examples))]


def counts(source: Source) -> dict[str, int]:
    labels = source.splits["train"].labels().tolist()
    return dict(Counter(source.class_names[label] for label in labels))


def write(root: Path, names: Sequence[str], size: tuple[int, int] = (2, 2)) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(root / name)


def test_a_folder_an_svg_file_or_the_list_marks_a_drawing(tmp_path: Path) -> None:
    write(tmp_path, ["food/fruit/cartoon/a.png", "food/fruit/b.png", "food/fruit/c.png"])
    (tmp_path / "food/fruit/c.svg").touch()
    assert sources.is_drawing(tmp_path, "food/fruit/cartoon/a.png")
    assert not sources.is_drawing(tmp_path, "food/fruit/b.png")
    assert sources.is_drawing(tmp_path, "food/fruit/c.png")
    assert sources.is_drawing(tmp_path, "animals/mammals/hedgehog.png")


def test_missing_packages_and_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"'photos'.*photographs"):
        sources.tuxpaint(keys("photos"))
    with pytest.raises(errors.UserError, match="apt-get install tuxpaint-stamps-default"):
        sources.tuxpaint(keys("drawings", tmp_path / "nowhere"))
    with pytest.raises(errors.UserError, match="apt-get install openclipart-png"):
        sources.openclipart(keys("", tmp_path / "nowhere"))
    write(tmp_path, [f"animals/birds/{number}.png" for number in range(12)] + ["food/fruit/a.png"])
    with pytest.raises(errors.UserError, match=r"0 pictures of the class 'coins'.*at least 10"):
        sources.tuxpaint(keys("photographs", tmp_path))


def test_clip_art_has_no_picture_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture of a series, none that is in two classes, none that is very large."""
    monkeypatch.setattr(sources, "CLIPART", ("animals/birds", "food/fruit"))
    monkeypatch.setattr(sources, "MIN_PICTURES", 1)
    names = ["duck_01", "duck_02", "duck-3", "owl_a", "owl_b", "orange_juice", "dove", "dove_old"]
    write(tmp_path, [f"animals/birds/{name}.png" for name in names])
    write(tmp_path, ["food/fruit/orange_juice.png", "food/fruit/sweet/apple.png", "other/dove.png"])
    write(tmp_path, ["food/fruit/large.png"], size=(4001, 1000))
    found = sources.openclipart(keys("", tmp_path))
    series = sorted(re.sub(r"[_-](\d+|[ab])$", "", Path(path).stem) for path in paths(found))
    assert series == ["apple", "dove", "dove_old", "duck", "owl"]
    assert counts(found) == {"animals/birds": 4, "food/fruit": 1}
    monkeypatch.setattr(sources, "MAX_CLIPART", 3)
    assert counts(sources.openclipart(keys("", tmp_path)))["animals/birds"] == 3


@needs_stamps
def test_the_stamps_of_tux_paint_are_complete() -> None:
    photographs, drawings = (sources.tuxpaint(keys(kind)) for kind in ("photographs", "drawings"))
    sizes = (35, 26, 11, 25, 26, 10, 11, 66, 12, 11, 18, 16)
    assert counts(photographs) == dict(zip(sources.PHOTOGRAPHS, sizes, strict=True))
    assert sum(counts(drawings).values()) == 237
    assert min(counts(drawings).values()) == 11
    assert not {*paths(photographs)} & {*paths(drawings)}
    for path in paths(photographs):
        assert "/cartoon/" not in path
        assert not (Path(sources.TUXPAINT) / path).with_suffix(".svg").exists()


def equal_neighbours(file: Path) -> float:
    """Returns the share of opaque pixels that equal the opaque pixel to their left.

    It is 1 without such pixels: all of the picture is half transparent.
    """
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGBA")).astype(np.int16)
    opaque = pixels[..., 3] == 255
    pairs = opaque[:, 1:] & opaque[:, :-1]
    same = (pixels[:, 1:] == pixels[:, :-1]).all(-1)
    return float(same[pairs].mean()) if pairs.any() else 1.0


@pytest.mark.slow
@needs_stamps
def test_drawings_have_flat_colours_and_photographs_have_not() -> None:
    """A measure that the rule of `is_drawing` does not use.

    Overexposed flowers, the dark sides of planets and smooth gradients of drawings are exceptions.
    """
    shares = {}
    for kind in ("photographs", "drawings"):
        found = sources.tuxpaint(keys(kind))
        values = [equal_neighbours(Path(sources.TUXPAINT) / path) for path in paths(found)]
        shares[kind] = np.mean(np.array(values) > 0.3)
    assert shares["photographs"] < 0.05
    assert shares["drawings"] > 0.9


@needs_clipart
def test_the_classes_of_open_clip_art_are_complete() -> None:
    found = sources.openclipart(keys())
    sizes = counts(found)
    assert (len(sizes), sum(sizes.values())) == (29, 796)
    assert (min(sizes.values()), max(sizes.values())) == (10, 40)
    assert len({Path(path).name for path in paths(found)}) == 796


@needs_stamps
def test_the_config_divides_each_class_by_its_shares() -> None:
    given = plan.read(config_files.load("tuxpaint:scratch")).data
    found = sources.tuxpaint(given)
    selected = selection.select(found, given)
    total = np.bincount(found.splits["train"].labels())
    for split, share in zip(("train", "validation", "test"), given.split_shares, strict=True):
        assert np.abs(np.bincount(selected[split].labels()) - share * total).max() < 1, split


@pytest.mark.slow
def test_both_arms_see_the_same_pictures() -> None:
    """The preprocessing of 'scratch' is that of the weights."""
    fine_tuned, _ = start.find(plan.read(config_files.load("tuxpaint")))
    scratch = plan.read(config_files.load("tuxpaint:scratch"))
    ours, theirs = plan.flatten(scratch), plan.flatten(fine_tuned)
    assert ours.pop("data.shorter_side") == 256  # 224 / 0.875, the automatic value
    assert theirs.pop("data.shorter_side") == 0
    differing = {path for path in ours if ours[path] != theirs[path]}
    assert differing == {"phases", "init.weights", "optim.learning_rate", "train.epochs"}


@pytest.mark.parametrize("name", ["tuxpaint", "openclipart_lite0"])
def test_an_unknown_variant_is_an_error(name: str) -> None:
    with pytest.raises(errors.UserError, match=r"'scrach'.*did you mean 'scratch'"):
        config_files.load(f"{name}:scrach")


@pytest.mark.slow
def test_the_second_phase_trains_what_the_book_trains() -> None:
    """`layers[56:]` of Keras's Xception, which are 16,472,240 parameters, and the head."""
    config = plan.read(config_files.load("xception_flowers:smoke"))
    assert [phase.train.trainable for phase in plan.phases(config)] == [
        "head",
        xception_flowers.FROM_SIXTH_BLOCK,
    ]
    model = models.create("xception", num_classes=5)
    objective = objectives.Classification(model, lambda *_: None)  # type: ignore[arg-type]
    batch = objectives.init_batch((71, 71, 3))
    params, *_ = jax.eval_shape(objective.init, jax.random.key(0), batch)
    sizes = {
        patterns.path(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    chosen = xception_flowers.FROM_SIXTH_BLOCK.replace("head", "^fc/").split(", ")
    found = sum(size for path, size in sizes.items() if any(re.search(one, path) for one in chosen))
    assert found == 16_472_240 + 2048 * 5 + 5


# The comparison


def test_the_rate_of_the_last_phase_is_tuned() -> None:
    given = plan.read(config_files.load("tuxpaint"))
    first, last = plan.phases(compare.with_rate(given, 0.25))
    assert (first.optim.learning_rate, last.optim.learning_rate) == (0.1, 0.25)
    assert (first.train.trainable, last.train.trainable) == ("head", "kernel$, head")


def test_the_loss_decides_between_equal_accuracies() -> None:
    trials = [Trial("a", 0.8, 0.7), Trial("b", 0.9, 0.9), Trial("c", 0.9, 0.6), Trial("d", 0.9, 1)]
    assert compare.chosen(trials) == 2


def arm(right: np.ndarray, step: int) -> Arm:
    """Returns an arm with the test examples in increasing (1) or decreasing (-1) order."""
    numbered = [*enumerate(right.tolist())][::step]
    return Arm([Trial("rate 1", 0.5, 1.0)], 0, {f"{n:03}": value for n, value in numbered})


def test_the_report_compares_the_same_examples() -> None:
    """60 and 20 of 100 right; 50 only by the first, 10 only by the second."""
    first, second = np.zeros(100, bool), np.zeros(100, bool)
    first[:60], second[50:70] = True, True
    lines = [*compare.report({"features": arm(first, 1), "scratch": arm(second, -1)})]
    assert lines[2].startswith("| features | rate 1 | 50.00% | 60.00% | 5")
    assert lines[3].startswith("| scratch | rate 1 | 50.00% | 20.00% | 1")
    # McNemar: (|50 - 10| - 1)^2 / 60 = 25.35, p = 4.8e-7.
    assert re.fullmatch(
        r"features minus scratch: 40.00% \(2\d.\d\d% to 5\d.\d\d%\), p 5e-07, 100 test examples",
        lines[4],
    )


@pytest.mark.slow
@needs_stamps
def test_the_comparison_runs_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With LeNet, whose weights are initial ones, for two steps."""
    monkeypatch.setattr(compare, "RATES", {"fine-tuned": (0.01,), "scratch": (0.1,)})
    model = models.create("lenet", num_classes=10)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1)), train=False)
    pretrained.save(tmp_path / "lenet.safetensors", "lenet", variables)
    changes = {
        "init.weights": tmp_path / "lenet.safetensors",
        "model.name": "lenet",
        "data.name": "drawings",
        "data.image_size": 32,
        "data.channels": 1,
        "data.mean": "(0.5,)",
        "data.std": "(0.5,)",
        "data.resize": "bilinear",
        "data.eval_crop": "fit",
        "data.shorter_side": 0,
        "data.workers": 0,
        "train.steps": 2,
    }
    flags = [f"--config.{path}={value}" for path, value in changes.items()]
    arguments = ["compare", "--config=configs/tuxpaint.py", f"--out={tmp_path / 'out'}", *flags]
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setattr("sys.argv", arguments)
    with figures.stand_in():
        compare.main()
    lines = capsys.readouterr().out.splitlines()
    report = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert lines[-len(report) :] == report
    assert [line.split("|")[1].strip() for line in report[2:5]] == [
        *("fine-tuned", "features", "scratch")
    ]
    assert report[-1].endswith(", 72 test examples")
    trials = json.loads((tmp_path / "out" / "trials.json").read_text())
    assert [len(trials[name]) for name in ("fine-tuned", "features", "scratch")] == [1, 3, 1]
    with monkeypatch.context() as patched:
        patched.setattr(thorough, "run", None)  # The test examples are not read again.
        compare.main()
    assert (tmp_path / "out" / "report.md").read_text().splitlines() == report
