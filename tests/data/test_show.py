"""Tests of `cnn_jax.data.show`: the images that training sees, and their picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax import config_files, data, errors, plan
from cnn_jax.contracts import Augmentation, Batch, Description
from cnn_jax.data import show
from cnn_jax.data.show import Row, __main__
from cnn_jax.data.show.shown import Version
from tests.feeds import WHOLE, make_plan
from tests.pretrained import checkpoints
from tests.streams import write_folder

pytestmark = [pytest.mark.xdist_group("feeds"), pytest.mark.usefixtures("shared_programs")]
Exit = Callable[..., int | str | None]
KEYS: dict[str, Any] = {"storage": "resident", **WHOLE}
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
SOURCE = data.from_arrays({"train": (IMAGES, [0, 1, 2] * 3)}, ["cat", "dog", "eel"])


def mixed(description: Description) -> Augmentation:
    """Replaces a quarter of each example by the next one of the batch."""

    def mix(key: jax.Array, batch: Batch) -> Batch:
        one_hot = jax.nn.one_hot(batch["label"], description.num_classes)
        return {**batch, "target": 0.75 * one_hot + 0.25 * jnp.roll(one_hot, 1, 0)}

    return mix


def swapped(description: Description) -> Augmentation:
    """Gives each example the target of the next one of the batch."""

    def swap(key: jax.Array, batch: Batch) -> Batch:
        one_hot = jax.nn.one_hot(batch["label"], description.num_classes)
        return {**batch, "target": jnp.roll(one_hot, 1, 0)}

    return swap


def test_without_augmentation_training_sees_the_stored_images() -> None:
    rows = show.rows(make_plan(**KEYS), examples=3, steps=4, source=SOURCE)
    assert [row.class_name for row in rows] == ["cat", "dog", "eel"]
    for row, place in zip(rows, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(row.original, IMAGES[place])
        assert len(row.versions) == 4
        for version in row.versions:
            np.testing.assert_array_equal(version.image, IMAGES[place])
            assert version.mixture == {}


def test_a_given_source_shows_the_classes_of_the_plan() -> None:
    settings = make_plan(**KEYS, classes="dog,eel", batch_size=2)
    rows = show.rows(settings, examples=2, steps=1, source=SOURCE)
    assert [row.class_name for row in rows] == ["dog", "eel"]


def test_each_step_shows_another_version_of_the_same_example() -> None:
    settings = make_plan(**KEYS, flip=True, repeats=2)
    rows = show.rows(settings, examples=20, steps=6, source=SOURCE)
    assert len(rows) == 9
    mirrored = []
    for row, image in zip(rows, IMAGES, strict=True):
        for version in row.versions:
            mirrored.append(not np.array_equal(version.image, image))
            expected = image[:, ::-1] if mirrored[-1] else image
            np.testing.assert_array_equal(version.image, expected)
    assert 15 < sum(mirrored) < 39


def test_streamed_crops_differ_between_steps_and_unreadable_images_are_left_out(
    tmp_path: Path,
) -> None:
    files = write_folder(tmp_path / "train", list(range(4)))
    files[2].write_bytes(files[2].read_bytes()[:200])
    folder = {"source": "folder", "directory": str(tmp_path), "train_crop": "random_resized"}
    keys = {**KEYS, "storage": "streamed", "batch_size": 4, **folder}
    with pytest.raises(errors.UserError, match="1 unreadable image"):
        show.rows(make_plan(**keys))
    rows = show.rows(make_plan(**keys, max_bad_images=1))
    assert sorted(row.class_name for row in rows) == ["000", "001", "003"]
    for row in rows:
        images = {version.image.tobytes() for version in row.versions}
        assert len(images) == len(row.versions) == 6


def test_targets_name_the_classes_of_the_mixed_examples() -> None:
    settings = make_plan(**KEYS, augment=(("tests.data.test_show:mixed", {}),))
    rows = show.rows(settings, examples=9, steps=3, source=SOURCE)
    mixtures = [dict(version.mixture) for row in rows for version in row.versions]
    shares = {tuple(sorted(mixture.values())) for mixture in mixtures}
    assert shares == {(), (0.25, 0.75)}  # Two examples of one class are no mixture.
    for row in rows:
        assert all(version.mixture.get(row.class_name, 0.75) == 0.75 for version in row.versions)


def test_a_target_of_one_other_class_is_named() -> None:
    settings = make_plan(**KEYS, augment=(("tests.data.test_show:swapped", {}),))
    named = 0
    for row in show.rows(settings, examples=9, steps=3, source=SOURCE):
        for version in row.versions:
            assert row.class_name not in version.mixture
            assert list(version.mixture.values()) in ([], [1.0])
            named += len(version.mixture)
    assert named > 0


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (2, np.uint8), (5, np.float32)])
def test_the_picture_has_enlarged_pixels_of_originals_and_versions(
    channels: int, dtype: Any
) -> None:
    image = np.arange(10 * 20 * channels).reshape(10, 20, channels).astype(np.uint8)
    original = image if dtype == np.uint8 else (image / np.float32(255)).astype(dtype)
    version = Version(image, {"Ωmega": 0.75, "a name that is longer than the cell": 0.25})
    picture = np.asarray(show.draw([Row(original, "Ωmega", (version,))] * 2))
    assert picture.shape == (4 + 2 * (60 + 24 + 4), 4 + 2 * (120 + 4), 3)
    drawn = image[..., :3] if channels >= 3 else image[..., [0, 0, 0]]
    expected = drawn.repeat(6, 0).repeat(6, 1)
    for left in (4, 128):
        np.testing.assert_array_equal(picture[4:64, left : left + 120], expected)
        np.testing.assert_array_equal(picture[92:152, left : left + 120], expected)
    for top, bottom in ((64, 88), (88, 92)):
        is_text = top == 64
        assert (picture[top:bottom] < 128).any() == is_text
    assert (picture[:, 124:128] == 255).all()


def test_large_originals_are_scaled_down() -> None:
    image = np.full((400, 300, 3), 7, np.uint8)
    version = Version(np.full((120, 120, 3), 9, np.uint8), {})
    picture = np.asarray(show.draw([Row(image, "", (version,))]))
    assert (picture[4:124, 4:94] == 7).all()
    assert (picture[4:124, 95:124] == 211).all()  # light grey
    assert (picture[4:124, 128:248] == 9).all()


def test_the_command_writes_the_picture(
    exit_status: Exit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid.png"
    out.write_bytes(b"earlier")
    arguments = ("--config=quickstart:smoke", f"--out={out}", "--examples=2", "--steps", "3")
    overrides = ("--config.data.flip=True", "--config.data.crop_padding=2")
    assert exit_status(__main__.main, *arguments, *overrides) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert capsys.readouterr().out == f"{out}: {picture.width} x {picture.height} pixels\n"
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.slow
def test_the_command_prepares_images_for_the_weights(exit_status: Exit, tmp_path: Path) -> None:
    weights = checkpoints.write(tmp_path / "weights", checkpoints.state_dict())
    write_folder(tmp_path / "pictures" / "train", [0, 1])
    texts = {
        "data.directory": str(tmp_path / "pictures"),
        "data.train_split": "train",
        "data.validation_split": "",
        "data.test_split": "",
        "data.split": "",
        "train.batch_size": "2",
    }
    theirs: Any = checkpoints.CONFIG["pretrained_cfg"]
    stated = {
        "data.image_size": "40",
        "data.channels": "3",
        "data.resize": theirs["interpolation"],
        "data.mean": str(tuple(theirs["mean"])),
        "data.std": str(tuple(theirs["std"])),
    }
    flags = [f"--config.{key}={text}" for key, text in texts.items()]
    flags += [f"--config.init.weights={weights}", "--examples=2", "--steps=2"]
    out = tmp_path / "grid.png"
    assert exit_status(__main__.main, "--config=finetune", f"--out={out}", *flags) == 0
    settings = plan.read(config_files.load("finetune"))
    settings = config_files.override(settings, texts | stated)
    with Image.open(out) as picture:
        expected = show.draw(show.rows(settings, examples=2, steps=2))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=grid.jpg"], "--out must end in .png"),
        (["--out=nowhere/grid.png"], "does not exist or cannot be written"),
        (["--out=grid.png", "--steps=0"], "steps must be at least 1, got 0"),
        (["--out=grid.png", "--examples=-1"], "examples must be at least 1, got -1"),
        (["--out=grid.png", "--config.data.crop_padding=99"], "data.crop_padding must be in"),
        (["--out=grid.png", "--config.data.flop=1"], "data.flop"),
        (["--out=grid.png", "--step=2"], "unknown flag '--step'; nearest: --steps"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str],
    message: str,
    refusal: Callable[..., str],
) -> None:
    assert message in refusal(__main__.main, "--config=quickstart:smoke", *arguments)
