"""Tests of automatic values of a plan that starts from weights, and of values that contradict."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import data, errors, plan, pretrained, train, unread
from cnn_jax.data import crops
from cnn_jax.plan import Data
from cnn_jax.runs import workdir
from cnn_jax.train import defaults, start
from cnn_jax.train.weights import Weights
from tests.pretrained import checkpoints

# Every key of the preprocessing is automatic.
AUTOMATIC: dict[str, Any] = {"image_size": 0, "channels": 0, "resize": "", "eval_crop": ""}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SqueezeNet in timm's format: 40 pixels, bicubic, crop of 0.9, mean and deviation."""
    return checkpoints.write(tmp_path_factory.mktemp("weights") / "timm", checkpoints.state_dict())


def settings(weights: Path, **changes: Any) -> plan.Plan:
    keys = {f"data.{key}": value for key, value in AUTOMATIC.items()}
    return plan.read({"model.name": "", "init.weights": str(weights), **keys, **changes})


def found(weights: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[Data, str]:
    """Returns the section `data` that the run uses, and what it prints."""
    options, _ = start.find(settings(weights, **changes), progress=True)
    return options.data, capsys.readouterr().err


def test_automatic_values_are_those_of_published_weights(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, printed = found(published, capsys)
    assert printed == ""
    assert keys.input_shape == (40, 40, 3)
    assert (keys.mean, keys.std) == ((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
    assert (keys.resize, keys.eval_crop, keys.shorter_side) == ("bicubic", "centre", 44)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected = pretrained.load(published).preprocessing.fit(image)
    np.testing.assert_array_equal(crops.eval_crop(keys, None)(image), expected)


def test_the_network_is_that_of_the_weights(published: Path) -> None:
    options, _ = start.find(settings(published))
    assert options.model.name == checkpoints.NETWORK
    assert options.model.options == {}
    named, _ = start.find(settings(published, **{"model.name": checkpoints.NETWORK}))
    assert named == options


def test_a_crop_keeps_its_share_at_another_size(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, printed = found(published, capsys, **{"data.image_size": 60})
    assert printed.count("\n") == 1
    assert "data.image_size is 60x60, that of the weights is 40x40; 60x60 is used" in printed
    assert keys.shorter_side == 66  # 44 of 40 pixels
    keys, _ = found(published, capsys, **{"data.eval_image_size": 80})
    assert keys.input_shape == (40, 40, 3)
    assert keys.shorter_side == 88


@pytest.mark.parametrize(
    ("changes", "printed"),
    [
        ({"data.resize": "bilinear"}, "data.resize is bilinear, that of the weights is bicubic"),
        ({"data.eval_crop": "fit", "data.resize": ""}, "data.eval_crop is fit, that of .* centre"),
        ({"data.shorter_side": 50}, "data.shorter_side is 50, that of the weights is 44; 50 is us"),
        ({"data.channels": 1}, "data.channels is 1, that of the weights is 3; 1 is used"),
        (
            {"data.mean": (0.5, 0.5, 0.5), "data.std": (0.3, 0.2, 0.1)},
            r"data.mean is \(0.5, 0.5, 0.5\), that of the weights is \(0.5, 0.4, 0.3\)",
        ),
    ],
)
def test_a_stated_value_stays_and_a_line_names_both(
    published: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    printed: str,
) -> None:
    keys, lines = found(published, capsys, **changes)
    for path, value in changes.items():
        if value:
            assert getattr(keys, path.removeprefix("data.")) == value
    assert lines.count("\n") == 1
    assert lines.startswith(f"init.weights {published}: data.")

    assert re.search(printed, lines)
    assert "is used (data." in lines


def test_equal_values_contradict_nothing(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"resize": "bicubic", "eval_crop": "centre", "image_size": 40, "channels": 3}
    given |= {"shorter_side": 44, "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}
    _, printed = found(published, capsys, **{f"data.{key}": value for key, value in given.items()})
    assert printed == ""


def test_grey_images_have_the_average_of_the_moments(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, _ = found(published, capsys, **{"data.channels": 1})
    assert keys.mean == pytest.approx((0.4,))
    assert keys.std == pytest.approx((0.2,))


def weights(**changes: Any) -> Weights:
    """Returns weights of a run on images of 32 pixels."""
    keys: dict[str, Any] = {"mean": (0.5,), "std": (0.2,), **changes.pop("preprocessing", {})}
    prepare = pretrained.Preprocessing(
        **{"image_size": 32, "resize_size": 32, "class_names": (), **keys}
    )
    size = prepare.input_shape[:2]
    fields = {"input_size": size, "resize": "pad", "eval_crop": "fit", **changes}
    return Weights(None, None, {}, "", {}, prepare, **fields)


def test_the_crop_of_a_run_with_the_usual_share_stays_automatic() -> None:
    prepare = {"image_size": 224, "resize_size": 256}
    given = weights(preprocessing=prepare, resize="bilinear", eval_crop="centre")
    keys, notes = defaults.data(Data(**AUTOMATIC), given)
    assert (keys.eval_crop, keys.shorter_side, notes) == ("centre", 0, [])
    keys, notes = defaults.data(Data(**{**AUTOMATIC, "shorter_side": 256}), given)
    assert (keys.shorter_side, notes) == (256, [])


def test_a_run_without_scaling_can_be_followed_by_one_that_scales() -> None:
    keys, notes = defaults.data(Data(**AUTOMATIC), weights())
    assert (keys.resize, keys.eval_crop, keys.input_shape) == ("pad", "fit", (32, 32, 1))
    keys, notes = defaults.data(Data(**AUTOMATIC, train_crop="random_resized"), weights())
    assert (keys.resize, notes) == ("", [])  # It becomes bilinear, as without weights.
    keys, _ = defaults.data(Data(**{**AUTOMATIC, "eval_crop": "centre"}), weights())
    assert (keys.resize, keys.shorter_side) == ("", 32)  # The whole image, as in that run.


def test_sizes_of_training_and_evaluation_are_those_of_the_run() -> None:
    given = weights(preprocessing={"image_size": 48, "resize_size": 48}, input_size=(32, 32))
    for size in (0, 32):
        keys, notes = defaults.data(Data(**{**AUTOMATIC, "image_size": size}), given)
        assert (keys.input_shape, keys.eval_image_size, notes) == ((32, 32, 1), 48, [])
    given = weights(preprocessing={"image_size": 30, "image_width": 40, "resize_size": 30})
    keys, _ = defaults.data(Data(**AUTOMATIC), given)
    assert keys.input_shape == (30, 40, 1)


def test_a_side_too_short_for_the_training_crop_is_not_taken() -> None:
    prepare = {"image_size": 32, "resize_size": 34}
    given = weights(preprocessing=prepare, resize="bilinear", eval_crop="centre")
    stated = {**AUTOMATIC, "image_size": 48, "eval_image_size": 32, "train_crop": "random"}
    keys, _ = defaults.data(Data(**stated), given)
    assert keys.shorter_side == 0
    crops.check(keys)


def test_weights_of_squashed_images_say_so() -> None:
    prepare = {"image_size": 32, "resize_size": 34, "squash": True}
    given = weights(preprocessing=prepare, resize="bicubic", eval_crop="centre")
    _, notes = defaults.data(Data(**AUTOMATIC), given)
    assert notes == [
        "the weights were evaluated on whole images, scaled without their aspect ratio; this run "
        "crops the centre"
    ]


def test_without_weights_images_are_scaled_and_not_cropped(tmp_path: Path) -> None:
    values: dict[str, Any] = {f"data.{key}": value for key, value in AUTOMATIC.items()}
    values |= {"data.source": "fake", "data.split": "auto", "model.name": "logistic_regression"}
    values |= {"data.train_split": "auto", "train.batch_size": 8, "train.steps": 1}
    for _ in range(2):  # The second start finds the stored values.
        train.run(values, tmp_path / "run", progress=False)
    keys = workdir.load_plan(tmp_path / "run").data
    assert (keys.resize, keys.eval_crop, keys.input_shape) == ("bilinear", "fit", (32, 32, 1))
    assert keys.split == ""  # The set has a split 'test'.


def test_an_automatic_division_is_stratified_without_other_splits() -> None:
    images = np.zeros((40, 8, 8, 1), np.uint8)
    source = data.from_arrays({"train": (images, np.arange(40) % 2)})
    options = plan.read({"data.split": "auto", "data.image_size": 8})
    assert data.resolve(options, source).data.split == "stratified"


def test_an_empty_name_needs_weights() -> None:
    with pytest.raises(errors.UserError, match=r"^model\.name is empty, .* and init\.weights is"):
        train.check(plan.read({"model.name": ""}))


def test_a_manipulated_run_does_not_choose_the_network(published: Path, tmp_path: Path) -> None:
    given = plan.to_dict(settings(published))
    given["model"]["name"] = "os:path"
    (tmp_path / workdir.CONFIG).write_text(json.dumps(given))
    with pytest.raises(errors.UserError, match=r"has model\.name 'os:path' where .* has ''; if"):
        workdir.check(tmp_path, settings(published))


def test_patterns_without_weights_have_no_effect() -> None:
    assert unread.warnings(plan.read({"init.take": "conv"})) == [
        "init.take 'conv' has no effect without init.weights"
    ]
