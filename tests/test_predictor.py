"""Tests of predictors in Python: the images that they take, features, and where they come from."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from cnn_jax import errors, models, plan, predictor, pretrained
from cnn_jax.contracts import Batch, Description, Outputs, Variables
from cnn_jax.data import images
from cnn_jax.data.sources import digits
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Prediction, Predictor
from cnn_jax.runs import workdir
from tests.toys import CROSS_ENTROPY, Dense

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]
TEST = digits.source().splits["test"]
DIGITS = np.stack([TEST[index]["image"] for index in range(10)])  # [10, 8, 8, 1]
NAMES = ("a", "b", "c")
RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)


def make(model: nn.Module, channels: int = 3, batch_size: int = 4) -> Predictor:
    """Returns the predictor of a network with initial parameters, for images of 8x8 pixels."""
    settings = plan.read(
        {"data.image_size": 8, "data.channels": channels, "data.resize": "bilinear"}
    )
    mean, std = (0.5,) * channels, (0.25,) * channels
    description = Description(NAMES, (8, 8), (8, 8, channels), mean, std)
    objective = Classification(model, CROSS_ENTROPY)
    params, batch_stats, _ = objective.init(
        jax.random.key(0), {"image": jnp.zeros((1, 8, 8, channels))}
    )
    variables = {"params": params, "batch_stats": batch_stats}
    return predictor.of_parts(settings, description, objective, variables, batch_size=batch_size)


@pytest.fixture(scope="module")
def small() -> Predictor:
    """The predictor of two dense layers."""
    return make(Dense(norm=False))


@pytest.fixture(scope="module")
def lenet(trained: Path) -> Predictor:
    """The predictor of a trained LeNet."""
    return predictor.load(trained)


def assert_close(found: Prediction, expected: Prediction) -> None:
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-5),
        found,
        expected,
    )


def test_outputs_are_those_of_the_network_for_normalised_images(small: Predictor) -> None:
    found = small(COLOUR)
    inputs = (COLOUR.astype(np.float64) / 255 - 0.5) / 0.25
    layers = [small.variables["params"][name] for name in ("Dense_0", "Dense_1")]
    x = inputs.reshape(7, -1)
    for layer in layers:
        x = x @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(found.logits, x, rtol=1e-4, atol=1e-5)
    powers = np.exp(x)
    np.testing.assert_allclose(
        found.probabilities, powers / powers.sum(-1, keepdims=True), rtol=1e-4
    )
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float32 for part in found)


def forms(directory: Path) -> list[Any]:
    """Returns one colour image in all forms."""
    path = directory / "colour.png"
    Image.fromarray(COLOUR[0]).save(path)
    return [
        COLOUR[0],
        jnp.asarray(COLOUR[0]),
        COLOUR[0] / np.float32(255),
        COLOUR[0] / 255,
        Image.fromarray(COLOUR[0]),
        path,
        str(path),
        path.read_bytes(),
    ]


def test_an_image_may_have_any_form(small: Predictor, tmp_path: Path) -> None:
    some = forms(tmp_path)
    (expected,) = zip(*small([COLOUR[0]]), strict=True)
    for image in some:
        found = small(image)
        assert found.logits.shape == found.probabilities.shape == (3,)
        assert_close(found, Prediction(*expected))
    together = small(some)
    assert together.logits.shape == (len(some), 3)
    assert_close(together, Prediction(*(np.stack([part] * len(some)) for part in expected)))


def test_an_array_of_images_equals_the_list_of_them(small: Predictor) -> None:
    expected = small(list(COLOUR))
    for many in (COLOUR, jnp.asarray(COLOUR), iter(COLOUR), tuple(COLOUR)):
        jax.tree.map(np.testing.assert_array_equal, small(many), expected)


def test_grey_images_are_converted_and_sizes_may_differ(small: Predictor) -> None:
    grey = COLOUR[0, ..., 0]
    expected = small(np.stack([grey] * 3, axis=-1))
    assert_close(small(grey), expected)
    assert_close(small(grey[..., np.newaxis]), expected)
    large = np.asarray(Image.fromarray(COLOUR[1]).resize((24, 16)))
    found = small([grey, COLOUR[1], large])
    assert_close(small(large), Prediction(found.logits[2], found.probabilities[2]))


def test_images_of_several_channels() -> None:
    multispectral = make(Dense(norm=False), channels=5)
    images = RANDOM.uniform(size=(3, 8, 8, 5)).astype(np.float32)
    assert multispectral(images).logits.shape == (3, 3)
    assert multispectral(images[0]).logits.shape == (3,)
    with pytest.raises(errors.UserError, match=r"the image.*3.*5"):
        multispectral(COLOUR[0])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((9, 8, 8), np.uint8),
            r"C = 1 or 3, got \[9, 8, 8\]; for N grey images \[N, h, w\], pass images\[\.\.\., np",
        ),
        (np.zeros(5, np.uint8), r"\[h, w\], \[h, w, C\] or \[N, h, w, C\] .* got \[5\]"),
        (np.zeros((2, 2, 8, 8, 3)), r"got \[2, 2, 8, 8, 3\]"),
        (7, "images must be arrays, PIL images or paths, or a list of them, got int"),
        ({"image": COLOUR}, "images must be arrays, .* got dict"),
        ([COLOUR[0], COLOUR[1] * 2.0], "image 1.*"),
        ([COLOUR[0], "nowhere.png"], "nowhere.png: cannot be read: No such file"),
        ([COLOUR[0], COLOUR], "image 1.*"),
        (b"not a picture", "the image: not a readable image"),
    ],
)
def test_other_images_are_refused(small: Predictor, images: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        small(images)


def test_a_batch_without_images_has_no_rows(small: Predictor) -> None:
    found = small([])
    assert found.logits.shape == found.probabilities.shape == (0, 3)
    assert found.logits.dtype == np.float32
    assert small.preprocess([]).shape == (0, 8, 8, 3)


def test_the_network_is_compiled_for_two_shapes(small: Predictor) -> None:
    traced = []

    def predict(variables: Variables, batch: Batch) -> Outputs:
        traced.append(batch["image"].shape)
        return small.predict(variables, batch)

    counting = dataclasses.replace(small, predict=predict)
    for count in (1, 2, 3, 4, 5, 7, 6, 1):
        counting(COLOUR[:count])
    counting(COLOUR[0])
    assert traced == [(1, 8, 8, 3), (4, 8, 8, 3)]


def test_images_are_read_batch_by_batch(small: Predictor) -> None:
    read = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield COLOUR[0]

    predictions = small.each(stream())
    for count, _ in zip(range(40), predictions, strict=False):
        assert read <= count + 1 + 2 * small.batch_size
    assert read < 100


def test_each_yields_the_errors_of_unreadable_images_in_their_places(small: Predictor) -> None:
    images = [COLOUR[0], "nowhere.png", COLOUR[1], b"x", b"y", b"z", b"w", b"v", COLOUR[2]]
    found = list(small.each(images))
    good = {index: row for index, row in enumerate(found) if isinstance(row, Prediction)}
    assert list(good) == [0, 2, 8]
    assert all(isinstance(found[index], errors.UserError) for index in (1, 3, 4, 5, 6, 7))
    expected = small(COLOUR[:3])
    logits = np.stack([row.logits for row in good.values()])
    np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=1e-5)


def test_preprocessing_is_undone_for_plots(small: Predictor, lenet: Predictor) -> None:
    np.testing.assert_array_equal(small.undo(small.preprocess(COLOUR)), COLOUR)
    np.testing.assert_array_equal(small.undo(jnp.asarray(small.preprocess(COLOUR[0]))), COLOUR[0])
    inputs = lenet.preprocess(DIGITS[0])
    expected = images.fit(DIGITS[0], (32, 32), "bilinear")
    np.testing.assert_array_equal(lenet.undo(inputs), expected)


def test_top_takes_one_image(small: Predictor) -> None:
    names = [name for name, _ in small.top(COLOUR[0], 3)]
    assert names == [NAMES[index] for index in np.argsort(-small(COLOUR[0]).logits)]
    with pytest.raises(errors.UserError, match="top takes one image, got 7"):
        small.top(COLOUR, 3)


def test_features_are_the_endpoints_of_the_network(lenet: Predictor) -> None:
    found = lenet.features(DIGITS, "S4")
    inputs = jnp.asarray(lenet.preprocess(DIGITS))
    expected = models.features(lenet.model, lenet.variables, inputs)["S4"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert lenet.features(DIGITS[0], "S2").shape == (14, 14, 6)
    with pytest.raises(errors.UserError, match=r"unknown stage 'S3'; allowed: S2, S4"):
        lenet.features(DIGITS, "S3")


def test_the_embedding_is_the_input_of_the_head(lenet: Predictor) -> None:
    embedding = lenet.embed(DIGITS)
    assert embedding.shape == (10, 84)
    head = lenet.variables["params"][models.structure.head(lenet.model, (32, 32, 1))]
    logits = embedding @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, lenet(DIGITS).logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(lenet.embed(DIGITS[3]), embedding[3], rtol=0, atol=1e-5)


class TwoOutputs(nn.Module):
    """Network that returns its embedding, in half precision."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        x = images.mean((1, 2)).astype(jnp.bfloat16)
        return {"logits": nn.Dense(3)(x.astype(jnp.float32)), "embedding": x}


class Fixed(nn.Module):
    """Network that ignores its number of classes."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(3)(images.mean((1, 2)))


class Plain(nn.Module):
    """Network that has no form without a head."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(self.num_classes)(images.mean((1, 2)))


def test_a_network_may_return_its_embedding() -> None:
    found = make(TwoOutputs()).embed(COLOUR)
    assert found.dtype == np.float32
    expected = ((COLOUR / 255 - 0.5) / 0.25).mean((1, 2))
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)


def test_the_embedding_of_a_linear_network_is_its_input() -> None:
    own = make(models.create("logistic_regression", num_classes=3))
    np.testing.assert_array_equal(own.embed(COLOUR), own.preprocess(COLOUR).reshape(7, -1))


@pytest.mark.parametrize("model", [Dense(norm=False), Fixed(), Plain()])
def test_networks_without_embedding_and_endpoints_are_named(model: nn.Module) -> None:
    own, name = make(model), type(model).__name__
    with pytest.raises(errors.UserError, match=f"the network {name} has no embedding"):
        own.embed(COLOUR)
    with pytest.raises(errors.UserError, match=f"the network {name} records no endpoints"):
        own.features(COLOUR, "stage1")


def test_features_without_a_module_are_refused(small: Predictor) -> None:
    without = dataclasses.replace(small, model=None)
    with pytest.raises(errors.UserError, match="the objective has no attribute 'model'"):
        without.features(COLOUR, "stage1")
    with pytest.raises(errors.UserError, match="the network has no embedding"):
        without.embed(COLOUR)


def test_a_batch_size_below_1_is_refused() -> None:
    with pytest.raises(errors.UserError, match="batch_size must be at least 1, got 0"):
        make(Dense(norm=False), batch_size=0)


def test_a_run_is_loaded_by_path_or_text(trained: Path, lenet: Predictor) -> None:
    found = predictor.load(str(trained), "best", batch_size=2)
    assert found.batch_size == 2
    assert found.class_names == tuple("0123456789")
    assert_close(found(DIGITS), lenet(DIGITS))


@pytest.fixture(scope="module")
def weights(lenet: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained LeNet as a file of weights."""
    path = tmp_path_factory.mktemp("weights") / "lenet.safetensors"
    mean, std = lenet.preprocessing.mean, lenet.preprocessing.std  # type: ignore[attr-defined]
    preprocessing = pretrained.Preprocessing(32, 32, lenet.class_names, mean, std)
    pretrained.save(path, "lenet", lenet.variables, preprocessing=preprocessing)
    return path


def test_weights_are_loaded_with_their_preprocessing(
    weights: Path, lenet: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = np.stack([images.fit(image, (32, 32), "bilinear") for image in DIGITS])
    monkeypatch.chdir(weights.parent)
    for source in (weights, str(weights), weights.name):
        found = predictor.load(source)
        assert_close(found(scaled), lenet(DIGITS))
    assert found.input_shape == (32, 32, 1)
    assert found.embed(scaled[0]).shape == (84,)
    np.testing.assert_array_equal(found.undo(found.preprocess(scaled)), scaled)


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        ("nowhere", {}, r"unknown model 'nowhere'; .*; nowhere is no work directory either"),
        ("resnet50", {}, r"'resnet50' is a network, not a checkpoint; .* no work directory either"),
        ("no/where", {}, "not a work directory: no config.json in it; .* 'hf-hub:no/where'"),
        (Path("nowhere"), {}, "nowhere is not a work directory: no config.json in it"),
        ("nowhere.pth", {"name": "resnet50"}, "nowhere.pth cannot be read: No such file"),
        ("RUN", {"name": "lenet"}, "name='lenet' is for a file of weights, and .*run is a work di"),
        ("WEIGHTS", {"which": "last"}, "which='last' is for a work directory, and .* is published"),
        ("WEIGHTS", {"objective": CROSS_ENTROPY}, "objective=.* is for a work directory"),
    ],
)
def test_sources_and_arguments_that_do_not_fit_are_named(
    trained: Path,
    weights: Path,
    tmp_path: Path,
    source: str | Path,
    given: dict[str, Any],
    message: str,
) -> None:
    run = tmp_path / "run"
    run.symlink_to(trained)
    places = {"RUN": run, "WEIGHTS": weights}
    with pytest.raises(errors.UserError, match=message):
        predictor.load(places.get(str(source), source), **given)


def other_network(trained: Path, directory: Path, name: str) -> Path:
    """Returns a copy of the run, trained with the network `name` according to its config."""
    copy = shutil.copytree(trained, directory / "run")
    content = json.loads((copy / workdir.CONFIG).read_text())
    content["model"]["name"] = name
    (copy / workdir.CONFIG).write_text(json.dumps(content))
    return copy


def test_a_network_that_cannot_be_imported_is_named_with_the_command_of_its_run(
    trained: Path, tmp_path: Path
) -> None:
    copy = other_network(trained, tmp_path, "nets_of_nobody:Small")
    first = {"directory": "/first", "command": "x", "modules": {}}
    last = {"directory": "/home/me", "command": "main", "modules": {"nets_of_nobody": "/code"}}
    starts = [first, last]
    workdir.save(copy, workdir.ENVIRONMENT, {"starts": starts})
    with pytest.raises(
        errors.NotImportableError,
        match=r"no module 'nets_of_nobody' .*'nets_of_nobody': '/code'.* in /home/me by: main",
    ):
        predictor.load(copy)
    (copy / workdir.ENVIRONMENT).unlink()
    with pytest.raises(errors.NotImportableError, match=r"directory to PYTHONPATH$"):
        predictor.load(copy)


def test_an_objective_may_be_given(trained: Path, tmp_path: Path, lenet: Predictor) -> None:
    copy = shutil.copytree(trained, tmp_path / "run")
    content = json.loads((copy / workdir.CONFIG).read_text())
    content["train"]["objective"] = plan.GIVEN
    (copy / workdir.CONFIG).write_text(json.dumps(content))
    with pytest.raises(errors.UserError, match=r"predictor\.load\(.*objective=\.\.\.\)"):
        predictor.load(copy)
    objective = Classification(models.create("lenet", num_classes=10), CROSS_ENTROPY)
    assert_close(predictor.load(copy, objective=objective)(DIGITS), lenet(DIGITS))
