"""Weights for images of another size or number of channels equal those of timm and torchvision.

`make_adapted.py` wrote the expected values.
"""

import json
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import errors, models, predictor, pretrained
from cnn_jax.pretrained import Preprocessing, convert
from cnn_jax.pretrained.fitting import adapt, positions
from cnn_jax.pretrained.network import Network
from tests.golden import fill
from tests.pretrained import checkpoints

GOLDEN = json.loads((Path(__file__).parent / "data" / "adapted.json").read_text())
VIT = "vit_tiny_patch16_224"
SWIN = "swin_tiny_patch4_window7_224"
SMALL_VIT: Any = {"patch_size": 8, "width": 8, "depth": 1, "heads": 2}
SMALL_SWIN: Any = {"width": 8, "stage_sizes": (2, 2), "heads": (2, 2), "stochastic_depth_rate": 0.0}
RESNET: Any = {"stage_sizes": (1, 1), "widths": (8, 16)}


def uniform(name: str, *shape: int) -> np.ndarray:
    return fill.uniform(name, shape).astype(np.float32)


def assert_close(found: np.ndarray, expected: list[float]) -> None:
    """The references compute with weights of float32."""
    np.testing.assert_allclose(found.flatten(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("case", GOLDEN["positions"])
def test_positions_equal_timms(case: Any) -> None:
    (height, width), new = case["old"], tuple(case["new"])
    given = uniform("positions", 1, 1 + height * width, 2)
    found = positions.resample(given, (height, width), new)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, 0], given[:, 0])
    assert_close(found, case["values"])


@pytest.mark.parametrize("case", GOLDEN["tables"])
def test_tables_of_relative_positions_equal_timms(case: Any) -> None:
    old, new = tuple(case["old"]), tuple(case["new"])
    given = uniform("table", (2 * old[0] - 1) * (2 * old[1] - 1), 2)
    assert_close(positions.resample_table(given.T, old, new).T, case["values"])


@pytest.mark.parametrize("case", GOLDEN["maps"])
def test_a_pooled_kernel_equals_torchs_pooling_before_it(case: Any) -> None:
    old, new = tuple(case["old"]), tuple(case["new"])
    weight = uniform("fc6", 3, 2, old[0] * old[1])  # In torch, the channels come first.
    kernel = adapt.pooled(weight.transpose(2, 1, 0).reshape(-1, 3), old, new)
    maps = uniform("maps", 2, 2, new[0] * new[1]).transpose(0, 2, 1).reshape(2, -1)
    assert_close(maps @ kernel, case["values"])


@pytest.mark.parametrize("case", GOLDEN["channels"])
def test_first_kernels_equal_timms(case: Any) -> None:
    kernel = uniform("kernel", 2, case["old"], 1, 3).transpose(2, 3, 1, 0)
    found = adapt.recoloured(kernel, case["new"])
    assert found.dtype == np.float32
    assert_close(found.transpose(3, 2, 0, 1), case["values"])


def stored(tmp_path: Path, case: Any, architecture: str, **config: Any) -> Path:
    """Writes a directory in timm's format with the weights of a case."""
    state = case["state"].items()
    entries = {name: fill.weight(name, tuple(shape)).astype("float32") for name, shape in state}
    return checkpoints.write(
        tmp_path / "weights", entries, {"architecture": architecture, **config}
    )


def logits(found: pretrained.Pretrained, case: Any) -> np.ndarray:
    images = fill.images((2, *case["new"], case["channels"])).astype(np.float32)
    return applied(found.model, found.variables, images)


def applied(model: nn.Module, variables: Any, images: np.ndarray) -> np.ndarray:
    """Returns the logits; compilation takes most of the time."""
    apply = jax.jit(lambda *given: model.apply(*given, train=False))
    return np.asarray(cast("jax.Array", apply(variables, images)))


@pytest.mark.parametrize("asked", [True, False])
def test_a_vit_for_other_images_equals_timms(tmp_path: Path, asked: bool) -> None:
    """The weights are for 32x32 pixels in colour, the images have 48x24 grey ones."""
    case = GOLDEN["vit"]
    shape = (*case["new"], 1)
    arguments = {} if asked else {"model_args": {"img_size": case["new"], "in_chans": 1}}
    config = {"pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 0.9}, **arguments}
    directory = stored(tmp_path, case, VIT, **config)
    found = pretrained.load(directory, input_shape=shape if asked else None, **SMALL_VIT)
    assert_close(logits(found, case), np.ravel(case["logits"]).tolist())
    assert found.notes == (
        "summed patch_embed_proj for images of 1 channels, not 3, as timm",
        "resampled the positions of 4x4 patches to 6x3, as timm",
    )
    assert found.preprocessing.input_shape == shape
    assert found.preprocessing.resize_size == 26  # 24 / 0.9
    assert found.preprocessing.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])


@pytest.mark.parametrize("case", GOLDEN["swin"], ids=lambda case: f"{case['old']}-{case['new']}")
def test_a_swin_for_other_images_equals_timms(tmp_path: Path, case: Any) -> None:
    """The maps of the second stage have 8x4 and 6x6 pixels; windows are 7x7 at most."""
    config = {"pretrained_cfg": {"input_size": [3, *case["old"]]}}
    directory = stored(tmp_path, case, SWIN, **config)
    found = pretrained.load(directory, input_shape=(*case["new"], 3), **SMALL_SWIN)
    np.testing.assert_allclose(logits(found, case), case["logits"], rtol=0, atol=2e-5)
    assert any(note.startswith("resampled biases of windows of ") for note in found.notes)


def test_a_resampled_swin_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    shape, path = (48, 48, 3), tmp_path / "a.safetensors"
    network = Network.of(SWIN, shape, SMALL_SWIN)
    variables = checkpoints.random_variables(network.shapes(2))
    pretrained.save(path, SWIN, variables, input_shape=shape, **SMALL_SWIN)
    found = pretrained.load(path)
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
    assert found.notes == ()


def test_weights_of_a_vit_have_their_own_size_if_none_is_asked_for(tmp_path: Path) -> None:
    """A file says nothing of its images; 5x5 positions are for patches of 40x40 pixels."""
    network = Network.of(VIT, (40, 40, 3), SMALL_VIT)
    state = convert.to_torch(VIT, checkpoints.random_variables(network.shapes(2)))
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoints.safetensors(state))
    found = pretrained.load(path, name=VIT, **SMALL_VIT)
    assert found.notes == ()
    assert (found.preprocessing.image_size, found.preprocessing.resize_size) == (40, 44)
    np.testing.assert_array_equal(
        found.variables["params"]["pos_embed"], state["pos_embed"], strict=True
    )


@pytest.mark.parametrize("stated", [3, 1])
def test_the_config_of_grey_weights_is_timms(tmp_path: Path, stated: int) -> None:
    """A network that timm made with in_chans=1 keeps its tag's input_size and mean."""
    state = checkpoints.state_dict("resnet18", **RESNET)
    grey = {
        name: array[:, :1] if name == "conv1.weight" else array for name, array in state.items()
    }
    mean = [0.1, 0.2, 0.6] if stated == 3 else [0.3]
    settings = {"input_size": [stated, 64, 64], "mean": mean, "std": [0.5] * stated}
    config = {"architecture": "resnet18", "pretrained_cfg": settings}
    found = pretrained.load(checkpoints.write(tmp_path / "grey", grey, config), **RESNET)
    assert found.variables["params"]["conv1"]["kernel"].shape == (7, 7, 1, 8)
    assert found.preprocessing.input_shape == (64, 64, 1)
    assert found.preprocessing.mean == pytest.approx([0.3])
    assert found.notes == ()


def test_grey_images_give_the_logits_of_their_colours(tmp_path: Path) -> None:
    state = checkpoints.state_dict("resnet18", **RESNET)
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoints.safetensors(state))
    grey = pretrained.load(path, name="resnet18", input_shape=(32, 32, 1), **RESNET)
    colour = pretrained.load(path, name="resnet18", **RESNET)
    images = fill.images((2, 32, 32, 1)).astype(np.float32)
    found, expected = (
        applied(each.model, each.variables, given)
        for each, given in ((grey, images), (colour, np.repeat(images, 3, -1)))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert grey.preprocessing.std == pytest.approx([(0.229 + 0.224 + 0.225) / 3])
    assert grey.preprocessing.input_shape == (32, 32, 1)


def test_alexnet_takes_images_of_another_size() -> None:
    """Each output of fc6 has the same kernel, to save memory."""
    options = {"hidden": (8, 8)}
    network = Network.of("alexnet_owt", None, options)
    shapes = {entry.name: entry.shape for entry in convert.entries(network, {}, 2).values()}
    state = {
        name: np.broadcast_to(np.float32(0), given)
        if name != "classifier.1.weight"
        else np.broadcast_to(uniform("fc6", 1, 9216), given)
        for name, given in shapes.items()
    }
    target = Network.of("alexnet_owt", (96, 160, 1), options)
    found = adapt.to_images(target, state, asked=True).state_dict
    entries = convert.entries(target, found, 2)
    assert {e.name: e.shape for e in entries.values()} == {k: a.shape for k, a in found.items()}
    # On maps of ones, the pooled maps are ones, too.
    total = found["classifier.1.weight"][0].sum(dtype=np.float64)
    np.testing.assert_allclose(total, uniform("fc6", 1, 9216).sum(dtype=np.float64), atol=1e-2)


@pytest.mark.slow
def test_vgg_by_timms_names_takes_images_of_another_size() -> None:
    """Its first dense layer is a convolution there, which stays one for images of any size."""
    options: Any = {"widths": (8, 8, 8, 8, 512)}
    network = Network.of("vgg11", None, options)
    names = {"pre_logits.fc1.bias": np.zeros(4096, np.float32)}
    state = {
        entry.name: fill.weight(entry.name, entry.shape).astype("float32")
        if entry.name != "pre_logits.fc2.weight"
        else np.broadcast_to(np.float32(1e-3), entry.shape)
        for entry in convert.entries(network, names, 2).values()
    }
    images = fill.images((2, 64, 96, 3)).astype(np.float32)
    expected, found = (
        applied(
            network.create(2),
            convert.to_variables(adapted.network, adapted.state_dict, 2),
            images,
        )
        for adapted in (
            adapt.to_images(network, state, asked=True),  # pools its maps to 7x7
            adapt.to_images(Network.of("vgg11", (64, 96, 3), options), state, asked=True),
        )
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_predict_takes_grey_weights(tmp_path: Path) -> None:
    state = checkpoints.state_dict("resnet18", **RESNET)
    variables = convert.to_variables(Network.of("resnet18", None, RESNET), state, 10)
    variables["params"]["conv1"]["kernel"] = variables["params"]["conv1"]["kernel"][:, :, :1]
    path = tmp_path / "grey.safetensors"
    pretrained.save(path, "resnet18", variables, input_shape=(32, 32, 1), **RESNET)
    found = predictor.load(path)
    assert found.input_shape == (32, 32, 1)
    assert found.notes == ()
    prepare = pretrained.load(path).preprocessing
    assert prepare.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])


def test_a_preprocessing_that_does_not_fit_the_saved_network_is_an_error(tmp_path: Path) -> None:
    variables = checkpoints.random_variables(Network.of(VIT, (32, 32, 3), SMALL_VIT).shapes(2))
    path = tmp_path / "a.safetensors"
    pretrained.save(
        path,
        VIT,
        variables,
        input_shape=(32, 32, 3),
        preprocessing=Preprocessing(48, 48, ("a", "b")),
        **SMALL_VIT,
    )
    with pytest.raises(errors.UserError, match=r"gives images of 48x48x3 .* input_shape=\(48, 48"):
        pretrained.load(path)
    found = pretrained.load(path, input_shape=(48, 48, 3))
    assert found.preprocessing.image_size == 48
    assert found.variables["params"]["pos_embed"].shape == (1, 37, 8)


def test_dense_layers_on_pixels_have_no_other_size(tmp_path: Path) -> None:
    network = Network.of("lenet", None, {})
    variables = checkpoints.random_variables(network.shapes(2))
    path = tmp_path / "a.safetensors"
    pretrained.save(path, "lenet", variables)
    with pytest.raises(errors.UserError, match=r"they are for images of 32x32x1 .*, not 48x48x1"):
        pretrained.load(path, input_shape=(48, 48, 1))
    colours = pretrained.load(path, input_shape=(32, 32, 3))
    assert models.input_shape("lenet") == (32, 32, 1)
    assert colours.preprocessing.mean == (0.0, 0.0, 0.0)
