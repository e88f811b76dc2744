"""Weights files of `pretrained.save`: content, metadata, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import cnn_jax
from cnn_jax import errors, models, pretrained
from cnn_jax.models import registry
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.network import Network
from tests.pretrained import checkpoints

NETWORK = "cuda_convnet_quick"
CLASSES = 2

ONE_EACH = {"stage_sizes": (1, 1, 1, 1)}
# The smallest network of each family, made smaller where its options allow it.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "alexnet": ("alexnet_d2l", {"hidden": (64, 64)}),
    "convnext": ("convnext_tiny", ONE_EACH),
    "cspnet": ("cspresnext50", ONE_EACH),
    "cuda_convnet": ("cuda_convnet_18pct", {}),
    "densenet": ("densenet121", ONE_EACH),
    "efficientnet": ("efficientnet_lite0", {"width_factor": 0.5}),
    "fashion_cnn": ("fashion_cnn", {}),
    "googlenet": ("googlenet_bn", {}),
    "inception": ("inception_v3", {"auxiliary_heads": False}),
    "inception_v4": ("inception_v4", {}),
    "lenet": ("lenet", {}),
    "linear": ("logistic_regression", {}),
    "mobilenet": ("mobilenetv1_025", {}),
    "nin": ("nin_cifar", {}),
    "resnet": ("resnet20", {"stage_sizes": (1, 1, 1)}),
    "resnetv2": ("resnetv2_50", ONE_EACH),
    "senet": ("seresnext50_32x4d", ONE_EACH),
    "shufflenet": ("shufflenet_v2_x0_5", {}),
    "squeezenet": ("squeezenet1_1", {}),
    "swin": ("swin_tiny_patch4_window7_224", ONE_EACH),
    "vgg": ("vgg11", {"widths": (8, 8, 8, 8, 512), "input_shape": (32, 32, 3)}),
    "vit": ("vit_tiny_patch16_224", {"depth": 1}),
    "wide_resnet": ("wrn_16_8", {"depth": 10}),
    "xception": ("xception", {}),
}

# Tracing them takes seconds.
LARGE = ("cspnet", "googlenet", "inception", "inception_v4", "vgg", "xception")


def variables_of(
    name: str, input_shape: tuple[int, int, int] | None = None, **options: Any
) -> dict[str, Any]:
    shapes = Network.of(name, input_shape, options).shapes(CLASSES)
    return checkpoints.random_variables(shapes)


def assert_same(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "np") as file:
        return file.metadata()


def test_every_family_is_tested() -> None:
    assert {name for name, part in vars(registry).items() if hasattr(part, "VARIANTS")} == set(
        FAMILIES
    )


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=[pytest.mark.slow] * (family in LARGE)) for family in FAMILIES],
)
def test_a_file_is_read_back_with_the_same_bits(family: str, tmp_path: Path) -> None:
    name, options = FAMILIES[family]
    variables, path = variables_of(name, **options), tmp_path / "weights.safetensors"
    pretrained.save(path, name, variables, **options)
    published = name in tables.published()
    table = (tables.for_network(name) if published else tables.for_file(name))[0]
    expected = convert.to_state_dict(table, variables)
    tensors = safetensors.numpy.load_file(path)
    assert tensors.keys() == expected.keys()
    checkpoints.assert_owned(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(tensors[key], array, strict=True)
    found = pretrained.load(path)
    assert_same(found.variables, variables)
    fields = {key: value for key, value in options.items() if key != "input_shape"}
    assert found.model == models.create(name, num_classes=CLASSES, **fields)
    assert (found.name, dict(found.options)) == (name, fields)


@pytest.fixture
def variables() -> dict[str, Any]:
    return variables_of(NETWORK)


@pytest.fixture
def file(tmp_path: Path, variables: dict[str, Any]) -> Path:
    path = tmp_path / "weights.safetensors"
    pretrained.save(path, NETWORK, variables)
    return path


def test_the_metadata_describes_the_network(file: Path) -> None:
    assert metadata_of(file) == {
        "format": "flax",
        "network": NETWORK,
        "num_classes": "2",
        "input_shape": "[32, 32, 3]",
        "options": "{}",
        "cnn_jax": cnn_jax.__version__,
    }


def test_flaxs_names_and_layout_are_the_variables_paths(
    file: Path, variables: dict[str, Any]
) -> None:
    tensors = safetensors.numpy.load_file(file)
    for layer, leaves in variables["params"].items():
        for leaf, array in leaves.items():
            np.testing.assert_array_equal(tensors[f"params.{layer}.{leaf}"], array)


def test_names_and_layout_are_timms(tmp_path: Path) -> None:
    name, path = "squeezenet1_1", tmp_path / "a.safetensors"
    variables = variables_of(name)
    pretrained.save(path, name, variables)
    kernel = variables["params"]["conv1"]["kernel"]
    stored = safetensors.numpy.load_file(path)["features.0.weight"]
    np.testing.assert_array_equal(stored, kernel.transpose(3, 2, 0, 1))
    assert metadata_of(path)["format"] == "pt"


def test_dense_layers_of_vgg_are_convolutions_in_timm() -> None:
    kernel = np.random.default_rng(0).random((7, 7, 512, 2), np.float32)
    variables = {"params": {"fc6": {"kernel": kernel.reshape(-1, 2)}}}
    found = convert.to_state_dict(tables.for_timm("vgg11"), variables)
    np.testing.assert_array_equal(found["pre_logits.fc1.weight"], kernel.transpose(3, 2, 0, 1))


def test_a_network_without_a_trained_head_needs_its_number_of_classes(tmp_path: Path) -> None:
    path, variables = tmp_path / "a.safetensors", variables_of("lenet5")
    assert "pass num_classes=" in failure(path, "lenet5", variables)
    pretrained.save(path, "lenet5", variables, num_classes=10)
    found = pretrained.load(path)
    assert_same(found.variables, variables)
    assert found.model == models.create("lenet5", num_classes=10)
    assert pretrained.load(path, num_classes=3).model == models.create("lenet5", num_classes=3)


def test_arrays_of_jax_and_other_dtypes_are_written(tmp_path: Path) -> None:
    variables, path = variables_of(NETWORK), tmp_path / "a.safetensors"
    half = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, jax.numpy.bfloat16), variables)
    pretrained.save(path, NETWORK, half)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), half)
    assert_same(pretrained.load(path).variables, expected)


def test_preprocessing_and_options_are_stored(tmp_path: Path) -> None:
    path, names = tmp_path / "grey.safetensors", ("cat", "dog")
    prepare = pretrained.Preprocessing(
        28, 32, names, (0.25,), (0.5,), "bicubic", squash=True, image_width=30
    )
    shape = (28, 28, 1)
    options: dict[str, Any] = {"stage_sizes": (1, 1, 1), "stochastic_depth_rate": 0.25}
    variables = variables_of("resnet20", shape, **options)
    pretrained.save(
        path, "resnet20", variables, input_shape=shape, preprocessing=prepare, **options
    )
    found = pretrained.load(path)
    assert found.preprocessing == prepare
    assert found.model == models.create("resnet20", num_classes=2, **options)
    assert_same(found.variables, variables)


def test_without_preprocessing_pixels_are_scaled_to_1(file: Path) -> None:
    found = pretrained.load(file).preprocessing
    image = np.full((40, 50), 51, np.uint8)
    np.testing.assert_array_equal(found(image), np.full((32, 32, 3), 0.2, np.float32))
    assert found.class_names == ("0", "1")


def test_a_network_without_head_is_saved_and_loaded(tmp_path: Path) -> None:
    path, shapes = tmp_path / "a.safetensors", Network.of("resnet20", None, {}).shapes(0)
    variables = checkpoints.random_variables(shapes)
    pretrained.save(path, "resnet20", variables)
    found = pretrained.load(path, num_classes=0)
    assert_same(found.variables, variables)
    assert found.model == models.create("resnet20", num_classes=0)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_a_string_or_a_path(kind: Any, tmp_path: Path) -> None:
    path, variables = kind(tmp_path / "a.safetensors"), variables_of(NETWORK)
    pretrained.save(path, NETWORK, variables)
    assert_same(pretrained.load(path).variables, variables)
    assert pretrained.read_state_dict(path).keys() == safetensors.numpy.load_file(path).keys()


def failure(path: Path, name: str, variables: Any, **options: Any) -> str:
    with pytest.raises(errors.UserError) as caught:
        pretrained.save(path, name, variables, **options)
    return str(caught.value)


def test_an_existing_file_is_replaced_only_on_request(file: Path) -> None:
    before, zeros = file.read_bytes(), jax.tree.map(np.zeros_like, variables_of(NETWORK))
    assert failure(file, NETWORK, zeros).startswith(f"{file} exists; pass overwrite=True")
    assert file.read_bytes() == before
    pretrained.save(file, NETWORK, zeros, overwrite=True)
    assert_same(pretrained.load(file).variables, zeros)


def test_a_failed_write_keeps_the_old_content(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def fill_disk(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fill_disk)
    message = failure(file, NETWORK, variables_of(NETWORK), overwrite=True)
    assert message == f"{file} cannot be written: No space left on device"
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_the_usual_permissions_are_given(file: Path) -> None:
    usual = file.with_name("usual")
    usual.touch()
    assert file.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("weights.pth", "must end in .safetensors"),
        ("absent/a.safetensors", "does not exist; create it first"),
        ("directory.safetensors", "is a directory"),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error(
    path: str, message: str, tmp_path: Path, variables: dict[str, Any]
) -> None:
    (tmp_path / "directory.safetensors").mkdir()
    assert message in failure(tmp_path / path, NETWORK, variables, overwrite=True)


def test_variables_that_do_not_fit_are_an_error(tmp_path: Path, variables: dict[str, Any]) -> None:
    path, grey = tmp_path / "a.safetensors", (32, 32, 1)
    params = variables["params"]
    for given, message in (
        (None, "got NoneType"),
        ({"batch_stats": {}}, "got ['batch_stats']"),
        ({"params": params, "opt_state": {}}, "got ['params', 'opt_state']"),
        ({"params": {"conv1": params["conv1"]}}, "the weights do not fit cuda_convnet_quick: "),
        (variables_of(NETWORK, grey), "expected (5, 5, 3, 32)"),
    ):
        assert message in failure(path, NETWORK, given)
    assert "unknown model 'resnet'" in failure(path, "resnet", variables)
    assert "have a head for 2 classes" in failure(path, NETWORK, variables, num_classes=3)
    assert not path.exists()


def test_a_preprocessing_of_other_classes_or_channels_is_an_error(
    tmp_path: Path, variables: dict[str, Any]
) -> None:
    path = tmp_path / "a.safetensors"
    three = pretrained.Preprocessing(32, 32, ("a", "b", "c"))
    grey = pretrained.Preprocessing(32, 32, ("a", "b"), (0.5,), (0.5,))
    assert "has 3 names, but the network has 2 classes" in failure(
        path, NETWORK, variables, preprocessing=three
    )
    assert "has 1 values, but the network's images have 3 channels" in failure(
        path, NETWORK, variables, preprocessing=grey
    )


def test_an_option_that_a_file_cannot_hold_is_an_error(tmp_path: Path) -> None:
    options = {"response_norm": models.options("alexnet")["response_norm"], "hidden": (8, 8)}
    variables = variables_of("alexnet", **options)
    message = failure(tmp_path / "a.safetensors", "alexnet", variables, **options)
    assert message.startswith("option response_norm=ResponseNorm(")


OWN_NETWORK = """
import flax.linen as nn

class Tiny(nn.Module):
    num_classes: int
    dtype: object
    widths: tuple = (4,)

    @nn.compact
    def __call__(self, images, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(self.widths[0], (3, 3))(images))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))
"""


def test_a_network_of_a_user_is_saved_and_loaded_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "saved_by_a_user.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    name, path, shape = "saved_by_a_user:Tiny", tmp_path / "a.safetensors", (8, 8, 2)
    variables = variables_of(name, shape, widths=(5,))
    assert "give height, width and channels" in failure(path, name, variables)
    pretrained.save(path, name, variables, input_shape=shape, widths=(5,))
    found = pretrained.load(path, name=name)
    assert_same(found.variables, variables)
    assert found.model == models.create(name, num_classes=CLASSES, widths=(5,))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(errors.UserError) as caught:
        pretrained.load(path, **options)
    return str(caught.value)


def test_the_name_of_another_network_is_an_error(file: Path) -> None:
    assert refused(file, name="resnet20").startswith(
        f"{file} has weights of '{NETWORK}', not of 'resnet20'"
    )
    assert pretrained.load(file, name=NETWORK).name == NETWORK


def with_metadata(path: Path, **changes: str) -> Path:
    tensors, metadata = safetensors.numpy.load_file(path), metadata_of(path)
    safetensors.numpy.save_file(tensors, path, {**metadata, **changes})
    return path


def test_a_file_does_not_choose_what_is_imported(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attack.py").write_text("import pathlib; pathlib.Path('created').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    message = refused(with_metadata(file, network="attack:Network"))
    assert message.endswith("pass name='attack:Network'")
    assert not os.path.lexists("created")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("options", "[1]"),
        ("options", "{"),
        ("num_classes", "many"),
        ("input_shape", "[32, 32]"),
        ("preprocessing", json.dumps({"size": 3})),
        ("preprocessing", json.dumps({"image_size": 9, "resize_size": 8, "class_names": []})),
    ],
)
def test_damaged_metadata_is_an_error(file: Path, key: str, value: str) -> None:
    message = refused(with_metadata(file, **{key: value}))
    assert message.startswith(f"{file}: its metadata is damaged: ")
