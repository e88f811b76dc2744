"""Tests of `cnn_jax.features`: the pictures of folders, their features, and the .npz file."""

import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn.linear_model import LogisticRegression

from cnn_jax import data, errors, features, models, plan, predictor
from cnn_jax.contracts import Description
from cnn_jax.features import Features
from cnn_jax.models import layers
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor
from tests.features.comparison import check, png
from tests.streams import write_folder
from tests.toys import CROSS_ENTROPY

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]


class Staged(nn.Module):
    """A network with three endpoints, one of them without height and width."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = layers.feature(self, "stem", nn.Conv(4, (3, 3), strides=2)(images))
        x = layers.feature(self, "stage1", nn.relu(nn.Conv(6, (3, 3))(x)))
        x = layers.feature(self, "hidden", nn.relu(nn.Dense(5)(x.mean((1, 2)))))
        return nn.Dense(self.num_classes, name="fc")(x) if self.num_classes else x


def make(model: nn.Module, size: int = 8) -> Predictor:
    """Returns the predictor of a network with initial parameters, which computes four images."""
    settings = plan.read({"data.image_size": size, "data.channels": 3, "data.resize": "bilinear"})
    shape = (size, size, 3)
    description = Description(("a", "b", "c"), None, shape, (0.5,) * 3, (0.25,) * 3)
    objective = Classification(model, CROSS_ENTROPY)
    params, batch_stats, _ = objective.init(jax.random.key(0), {"image": jnp.zeros((1, *shape))})
    variables = {"params": params, "batch_stats": batch_stats}
    return predictor.of_parts(settings, description, objective, variables, batch_size=4)


@pytest.fixture(scope="module")
def network() -> Predictor:
    return make(Staged(3))


# Pictures


def test_pictures_in_class_folders_have_labels(network: Predictor, folder: Path) -> None:
    found = features.of_folder(network, folder)
    assert found.features.shape == (9, 5)
    assert found.features.dtype == np.float32
    assert found.labels is not None
    assert found.labels.dtype == np.int32
    assert found.class_names == ("000", "001", "002")
    classes = [found.class_names[label] for label in found.labels]
    assert classes == [name.partition("/")[0] for name in found.names]
    assert {Path(name) for name in found.names} == {
        path.relative_to(folder) for path in folder.rglob("*.jpg")
    }
    assert found.unreadable == {}
    check(found, network, folder)


@pytest.mark.parametrize("top", ["", "Data/CLS-LOC"])
def test_a_split_of_a_folder_is_chosen(network: Predictor, tmp_path: Path, top: str) -> None:
    write_folder(tmp_path / top / "train", [0, 1, 2] * 2)
    write_folder(tmp_path / top / "val", [2, 1], seed=1)
    found = features.of_folder(network, tmp_path, "validation")
    prefix = f"{top}/" if top else ""
    assert sorted(found.names) == [f"{prefix}val/001/1-1.jpg", f"{prefix}val/002/1-0.jpg"]
    assert sorted(found.labels.tolist()) == [1, 2]  # type: ignore[union-attr]
    check(found, network, tmp_path)
    whole = features.in_folder(tmp_path, "train").names
    half = features.of_folder(network, tmp_path, "train[50%:]")
    assert list(half.names) == list(whole)[3:]
    check(half, network, tmp_path)
    with pytest.raises(errors.UserError, match="holds the splits train, validation; choose one"):
        features.of_folder(network, tmp_path)
    with pytest.raises(errors.UserError, match="unknown split 'test'"):
        features.of_folder(network, tmp_path, "test")


def test_a_flat_folder_has_no_labels(network: Predictor, tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "c.jpg", ".hidden.png"):
        png(tmp_path / name)
    (tmp_path / "empty").mkdir()
    found = features.of_folder(network, tmp_path)
    assert found.names == ("a.PNG", "b.png", "c.jpg")
    assert found.labels is None
    assert found.class_names is None
    check(found, network, tmp_path)
    with pytest.raises(errors.UserError, match="there is no split 'train' without labels"):
        features.of_folder(network, tmp_path, "train")


def test_any_tree_is_read_without_labels(network: Predictor, tmp_path: Path) -> None:
    for name in ("a/2024/1.png", "a/2.png", "3.png"):
        png(tmp_path / name)
    with pytest.raises(errors.UserError, match=r"holds only one class, 'a', .*give --no-labels"):
        features.of_folder(network, tmp_path)
    found = features.of_folder(network, tmp_path, labels=False)
    assert found.names == ("3.png", "a/2.png", "a/2024/1.png")
    assert found.labels is None
    check(found, network, tmp_path)


@pytest.mark.parametrize("labels", [True, False])
def test_what_is_no_folder_of_pictures_is_refused(tmp_path: Path, labels: bool) -> None:
    (tmp_path / "notes.txt").touch()
    for path, message in (
        (tmp_path, "no image file in"),
        (tmp_path / "nowhere", "cannot be listed: No such file"),
        (tmp_path / "notes.txt", "cannot be listed: Not a directory"),
    ):
        with pytest.raises(errors.UserError, match=message):
            features.in_folder(path, labels=labels)


@pytest.mark.skipif(os.name == "nt", reason="names of files are text on Windows")
def test_names_that_are_not_text_are_read(network: Predictor, tmp_path: Path) -> None:
    for name in (b"a/\xe9.png", b"b\xff/1.png"):
        png(tmp_path / os.fsdecode(name))
    found = features.of_folder(network, tmp_path)
    assert sorted(found.names) == ["a/\\xe9.png", "b\\xff/1.png"]
    assert found.class_names == ("a", "b\\xff")
    features.write(tmp_path / "features.npz", found)
    with np.load(tmp_path / "features.npz", allow_pickle=False) as stored:
        assert stored["names"].tolist() == list(found.names)


def test_a_split_of_a_source_of_arrays(network: Predictor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 9, 11, 3), np.uint8)
    source = data.from_arrays({"train": (images, [0, 1, 0, 1, 0, 1, 1])}, ["cat", "dog"])
    found = features.of_source(network, source, "train[2:]")
    np.testing.assert_allclose(found.features, network.embed(images[2:]), rtol=1e-6, atol=1e-6)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0, 1, 1]
    assert found.class_names == ("cat", "dog")
    names = [source.splits["train"].name(index) for index in range(2, 7)]
    assert list(found.names) == names


# Unreadable pictures


def test_unreadable_pictures_are_left_out_and_named(network: Predictor, folder: Path) -> None:
    clean = features.of_folder(network, folder)
    for name in ("000/bad.png", "002/empty.jpg"):
        (folder / name).write_text("no picture" if "bad" in name else "")
    (folder / "001" / "gone.png").symlink_to("nowhere.png")
    told: list[tuple[int, list[str]]] = []
    found = features.compute(
        network, features.in_folder(folder), tell=lambda *news: told.append((news[0], [*news[1]]))
    )
    assert set(found.unreadable) == {"000/bad.png", "001/gone.png", "002/empty.jpg"}
    for name, message in found.unreadable.items():
        assert message.startswith(f"{folder / name}: ")
    assert sum(count for count, _ in told) == 12
    assert [text for _, texts in told for text in texts] == list(found.unreadable.values())
    assert found.names == clean.names
    np.testing.assert_allclose(found.features, clean.features, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.labels, clean.labels)


def test_unreadable_examples_of_a_source_are_left_out(network: Predictor, folder: Path) -> None:
    source = data.open_source(plan.read({"data.source": "folder", "data.directory": folder}).data)
    last = source.splits["train"].name(8)
    (folder / last).unlink()
    found = features.of_source(network, source, "train")
    assert len(found.features) == 8
    assert list(found.unreadable) == [last]
    assert "cannot be read: No such file" in found.unreadable[last]


def test_features_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    class Inverse(Staged):
        """Divides by the mean of the pixels, which is 0 for grey pictures."""

        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
            x = layers.feature(self, "stage1", 1 / jnp.round(images.mean((1, 2)), 1))
            return nn.Dense(self.num_classes)(x)

    png(tmp_path / "grey.png", np.full((8, 8, 3), 128, np.uint8))
    png(tmp_path / "white.png", np.full((8, 8, 3), 255, np.uint8))
    found = features.of_folder(make(Inverse(3)), tmp_path, stage="stage1")
    assert found.names == ("white.png",)
    np.testing.assert_allclose(found.features, [[0.5, 0.5, 0.5]])
    assert "grey.png: its features are not finite" in found.unreadable["grey.png"]


def test_a_folder_without_a_readable_picture_is_an_error(
    network: Predictor, tmp_path: Path
) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).touch()
    message = f"none of the 2 pictures can be read: {tmp_path}/1.png: "
    with pytest.raises(errors.UserError, match=re.escape(message)):
        features.of_folder(network, tmp_path)


# Stages


@pytest.mark.parametrize(
    ("name", "last"),
    [("own", "hidden"), pytest.param("resnet20", "stage3", marks=pytest.mark.slow)],
)
def test_the_default_is_what_the_head_sees(folder: Path, name: str, last: str) -> None:
    """The head on the features gives the logits; the embedding is the pooled last endpoint."""
    model = Staged(3) if name == "own" else models.create(name, num_classes=3)
    network = make(model, size=16)
    found = features.of_folder(network, folder)
    fc = network.variables["params"]["fc"]
    logits = network([folder / picture for picture in found.names]).logits
    expected = found.features @ np.asarray(fc["kernel"]) + np.asarray(fc["bias"])
    np.testing.assert_allclose(expected, logits, rtol=1e-4, atol=1e-5)
    pooled = features.of_folder(network, folder, stage=last)
    np.testing.assert_allclose(pooled.features, found.features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stage", "shape"), [("stem", (4, 4, 4)), ("stage1", (4, 4, 6))])
def test_a_stage_is_pooled_or_kept(
    network: Predictor, folder: Path, stage: str, shape: tuple[int, ...]
) -> None:
    maps = features.of_folder(network, folder, stage=stage, pool=False)
    assert maps.features.shape == (9, *shape)
    check(maps, network, folder, stage=stage)
    pooled = features.of_folder(network, folder, stage=stage)
    assert pooled.features.dtype == np.float32
    np.testing.assert_allclose(pooled.features, maps.features.mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [True, False])
def test_a_stage_without_height_and_width_is_kept(
    network: Predictor, folder: Path, pool: bool
) -> None:
    found = features.of_folder(network, folder, stage="hidden", pool=pool)
    embedding = features.of_folder(network, folder)
    np.testing.assert_allclose(found.features, embedding.features, rtol=1e-6, atol=1e-6)


def test_a_wrong_stage_is_refused_before_a_picture_is_read(network: Predictor) -> None:
    def read(index: int) -> Path:
        raise AssertionError(index)

    unread = features.Pictures(["a.png"], read)
    allowed = "unknown stage 'stag1'; did you mean 'stage1'? allowed: hidden, stage1, stem"
    with pytest.raises(errors.UserError, match=re.escape(allowed)):
        features.compute(network, unread, stage="stag1")
    message = r"embedding has no height and width; .* name a stage: stage1, stem$"
    with pytest.raises(errors.UserError, match=message):
        features.compute(network, unread, pool=False)


def test_too_little_memory_is_an_error_with_the_size(
    network: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(shape: Any, dtype: Any) -> np.ndarray:
        raise MemoryError

    many = features.Pictures(["a.png"] * 1_000_000, lambda index: "a.png")
    monkeypatch.setattr(np, "empty", empty)
    message = r"features of the shape \[1000000, 4, 4, 4\] take 0\.3 GB, more than"
    with pytest.raises(errors.UserError, match=message):
        features.compute(network, many, stage="stem", pool=False)


# The file


def test_the_file_is_read_without_pickle(network: Predictor, folder: Path) -> None:
    out = folder.parent / "features.npz"
    found = features.of_folder(network, folder)
    features.write(out, found)
    with np.load(out, allow_pickle=False) as stored:
        assert sorted(stored) == ["class_names", "features", "labels", "names"]
        np.testing.assert_array_equal(stored["features"], found.features)
        np.testing.assert_array_equal(stored["labels"], found.labels)
        assert tuple(stored["names"].tolist()) == found.names
        assert tuple(stored["class_names"].tolist()) == found.class_names
        classes = stored["class_names"][stored["labels"]]
        model = LogisticRegression().fit(stored["features"], classes)
        assert model.predict(found.features).shape == (9,)
    unlabelled = features.of_folder(network, folder, labels=False)
    features.write(folder.parent / "unlabelled.npz", unlabelled)
    with np.load(folder.parent / "unlabelled.npz", allow_pickle=False) as stored:
        assert sorted(stored) == ["features", "names"]


FOUND = Features(np.zeros((1, 2), np.float32), ("a.png",), None, None, {})


def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "features.npz"
    savez = np.savez

    def slow(*args: Any, **arrays: Any) -> None:
        savez(*args, **arrays)
        out.write_text("of another process")

    monkeypatch.setattr(np, "savez", slow)
    with pytest.raises(errors.UserError, match="exists and is not overwritten"):
        features.write(out, FOUND)
    assert out.read_text() == "of another process"
    assert list(tmp_path.iterdir()) == [out]


def test_a_crash_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(file: Any, **arrays: Any) -> None:
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", crash)
    with pytest.raises(errors.UserError, match=r"features\.npz cannot be written: No space left"):
        features.write(tmp_path / "features.npz", FOUND)
    assert list(tmp_path.iterdir()) == []
