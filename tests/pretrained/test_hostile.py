"""Weights and configs from somebody else: limits, values that are refused, and messages."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from cnn_jax import errors, limits, predictor, pretrained
from cnn_jax.pretrained import Preprocessing, convert, preprocessing
from cnn_jax.pretrained.network import Network
from tests.pretrained import checkpoints, weight_files
from tests.pretrained.checkpoints import CONFIG, NETWORK, failure

ENTRIES = checkpoints.state_dict()
FIRST = "features.0.weight"  # [64, 3, 3, 3]
LIMITS = r"of cnn_jax/limits\.py"


def header_only(path: Path, name: str, shape: list[int]) -> Path:
    """Writes a safetensors file with one empty tensor."""
    return weight_files.write_safetensors(path, {name: weight_files.entry("F32", shape, 0, 0)}, b"")


@pytest.mark.parametrize("classes", [2**40, 300_000_000, limits.MAX_CLASSES + 1])
@pytest.mark.parametrize("new_head", [False, True, "auto"])
def test_a_head_of_too_many_classes_is_refused(tmp_path: Path, classes: int, new_head: Any) -> None:
    path = header_only(tmp_path / "a.safetensors", "classifier.1.weight", [classes, 0])
    message = failure(path, name=NETWORK, new_head=new_head, num_classes=3 if new_head else None)
    assert message == (
        f"{classes} classes are not allowed; allowed are 0 to the limit MAX_CLASSES of "
        "cnn_jax/limits.py, 1,000,000"
    )


def test_shapes_are_checked_before_class_names_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_similar", lambda _: [])  # Other networks take seconds to trace.
    monkeypatch.setattr(preprocessing, "class_names", pytest.fail)
    path = header_only(tmp_path / "a.safetensors", "classifier.1.weight", [limits.MAX_CLASSES, 0])
    assert "misshapen: classifier.1.weight has shape (1000000, 0)" in failure(path, name=NETWORK)


@pytest.mark.parametrize("count", [-1, 2**63 - 1, 10**4000], ids=["-1", "2**63 - 1", "10**4000"])
def test_the_classes_of_the_metadata_and_of_a_caller_have_a_limit(
    tmp_path: Path, count: int
) -> None:
    path = tmp_path / "a.safetensors"
    variables = checkpoints.random_variables(Network.of("lenet5", None, {}).shapes(10))
    pretrained.save(path, "lenet5", variables, num_classes=10)
    given = f"^{str(count)[:30]} classes are not allowed"
    with pytest.raises(errors.UserError, match=given):
        pretrained.save(path, "lenet5", variables, num_classes=count, overwrite=True)
    with pytest.raises(errors.UserError, match=given):
        pretrained.load(path, num_classes=count)
    change(path, num_classes=str(count)[:4000])
    assert f"its metadata is damaged: {str(count)[:30]} classes are not allowed" in failure(path)


def change(path: Path, **metadata: str) -> None:
    """Replaces entries of the metadata of a safetensors file."""
    with safetensors.safe_open(path, "np") as file:
        found = file.metadata() | metadata
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, found)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("input_shape", "[30000, 30000, 1]", f"30000 x 30000 x 1 .* MAX_INPUT_VALUES {LIMITS}"),
        ("input_shape", "[1, 1, 60000000]", f"1 x 1 x 60000000 .* MAX_INPUT_VALUES {LIMITS}"),
        ("input_shape", "[32.5, 32, 1]", "metadata is damaged: TypeError"),
        ("options", '{"hidden": [4, 4, 4]}', "unknown option"),
        ("options", '{"activation": [[[1000001]]]}', f"larger than the limit MAX_OPTION {LIMITS}"),
        ("resize_size", 9000, f"resize_size .* is 9000 pixels.* MAX_RESIZE_SIDE {LIMITS}, 8,192"),
        ("resize_size", True, "resize_size must be a number of pixels, got True"),
        ("image_size", 32.5, "image_size must be a number of pixels, got 32.5"),
        ("mean", [float("nan")], r"must be finite .* got mean \(nan,\), std \(0.5,\)"),
        ("mean", [float("inf")], r"must be finite"),
        ("mean", ["0.5"], r"must be finite"),
        ("mean", [0.5, 0.5], "must have one value per channel"),
        ("std", [0], "std must be positive"),
        ("std", [-0.5], "std must be positive"),
        ("std", [1e-300], "std must be positive"),  # 0 in float32
        ("std", [1e300], "must be finite"),  # infinite in float32
        ("std", [float("nan")], "must be finite"),
        ("class_names", ["a"], "it has 1 class names for 10 classes"),
        ("class_names", list(range(10)), "class_names must be strings"),
    ],
)
def test_metadata_that_cannot_be_right_is_refused(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path = tmp_path / "a.safetensors"
    variables = checkpoints.random_variables(Network.of("lenet", None, {}).shapes(10))
    names = tuple("0123456789")
    prepare = Preprocessing(32, 32, names, (0.5,), (0.5,))
    pretrained.save(path, "lenet", variables, preprocessing=prepare)
    if isinstance(value, str):
        change(path, **{key: value})
    else:
        fields = {"image_size": 32, "resize_size": 32, "class_names": names}
        fields |= {"mean": [0.5], "std": [0.5], key: value}
        change(path, preprocessing=json.dumps(fields))
    with pytest.raises(errors.UserError, match=message):
        pretrained.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("input_size", [3, 30_000, 30_000], f"MAX_RESIZE_SIDE {LIMITS}, 8,192"),
        ("input_size", [3, 5000, 5000], f"5000 x 5000 x 3 .* MAX_INPUT_VALUES {LIMITS}"),
        ("input_size", [3, -40, -40], "image_size must be a number of pixels, got -40"),
        ("input_size", [3, 40.5, 40.5], "has an invalid value: TypeError"),
        ("input_size", [3, 10**400, 10**400], "has an invalid value: OverflowError"),
        ("crop_pct", 1e-3, f"is 40000 pixels, .* MAX_RESIZE_SIDE {LIMITS}, 8,192"),
        ("crop_pct", 1e-320, "has an invalid value: OverflowError"),
        ("crop_pct", 0, "has an invalid value: ZeroDivisionError"),
        ("crop_pct", -1, "resize_size must be a number of pixels, got -40"),
        ("crop_pct", float("nan"), "has an invalid value: ValueError"),
        ("crop_pct", True, "True is no number"),
        ("mean", [float("nan")] * 3, r"must be finite .* got mean \(nan, nan, nan\)"),
        ("mean", [], "mean and std must have one value per channel, or three"),
        ("std", [0.1, float("inf"), 0.1], "must be finite"),
        ("std", [0.1, 0, 0.1], "std must be positive"),
        ("std", [1e-46, 1, 1], "std must be positive"),
        ("label_names", [[["a"]]], "has an invalid value: TypeError|must be text"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(key: str, value: Any, message: str) -> None:
    settings = {**CONFIG["pretrained_cfg"], key: value}  # type: ignore[dict-item]
    with pytest.raises(errors.UserError, match=message):
        preprocessing.from_timm({"pretrained_cfg": settings}, 10)


def test_the_largest_sizes_are_allowed() -> None:
    large = Preprocessing(4096, limits.MAX_RESIZE_SIDE, ("a",))
    assert large.input_shape == (4096, 4096, 3)
    assert preprocessing.from_timm({"input_size": [3, 1024, 1024], "crop_pct": 0.2}, 3)


def test_a_network_of_too_many_modules_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MODULES", 5)
    with pytest.raises(errors.UserError, match=rf"LeNet has more .* MAX_MODULES {LIMITS}, 5;"):
        Network.of("lenet", None, {"activation": "sigmoid"}).shapes(7919)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {"stage_sizes": [10**9, 1, 1]}, "'stage_sizes' .* gives more blocks than the"),
        ("wrn_16_8", {"depth": 10**9}, "'depth' 1000000000 gives more blocks than the file has"),
        (
            "resnet20",
            {"widths": [4097, 32, 64]},
            r"its options \{'widths'.* do not make a res",
        ),
    ],
)
def test_options_that_make_no_network_are_refused(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.safetensors"
    small: Any = {"stage_sizes": (1, 1, 1)} if name == "resnet20" else {"depth": 10}
    variables = checkpoints.random_variables(Network.of(name, None, small).shapes(10))
    pretrained.save(path, name, variables, **small)
    change(path, options=json.dumps(options))
    with pytest.raises(errors.UserError, match=message):
        pretrained.load(path)


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    for name in ("a.safetensors", "a.pth", "squeezenet1_1-b8a52dc0.pth", "hub/config.json"):
        os.mkfifo(tmp_path / name)
        source = tmp_path / name.removesuffix("/config.json")
        assert "no regular file" in failure(source, name=NETWORK)


@pytest.mark.parametrize("source", ["a" * 300, "a" * 300 + ".pth", "gs://bucket/a.pth"])
def test_a_path_that_cannot_exist_is_refused(source: str) -> None:
    load = pretrained.load if source.endswith(".pth") else predictor.load
    with pytest.raises(errors.UserError, match=r"too long|unknown model|is an address"):
        load(source, name=NETWORK if source.endswith(".pth") else None)
