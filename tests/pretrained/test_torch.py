"""Conversion of torch state dicts to variables and back."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnn_jax import errors, models, pretrained
from cnn_jax.pretrained import convert, layout
from cnn_jax.pretrained.network import Network
from tests.pretrained.checkpoints import NETWORK, safetensors, state_dict


def test_conversion_to_variables_and_back_keeps_every_entry() -> None:
    entries = state_dict()
    variables = pretrained.from_torch(NETWORK, entries, num_classes=10)
    back = pretrained.to_torch(NETWORK, variables)
    assert sorted(back) == sorted(entries)
    for key, array in entries.items():
        np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize("name", ["vgg11_bn", "googlenet_bn"])
def test_running_statistics_have_torchs_names(name: str) -> None:
    entries = convert.entries(Network.of(name, None, {}), {}, 1000).values()
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names))
    for norm in (entry.removesuffix(".running_var") for entry in names if "running_var" in entry):
        assert {f"{norm}.{leaf}" for leaf in ("weight", "bias", "running_mean")} < set(names)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("float64", "float64"), ("float32", "float32"), ("float16", "float32")],
)
def test_arrays_are_float32_unless_they_are_float64(given: str, kept: str) -> None:
    variables = pretrained.from_torch(NETWORK, state_dict(dtype=given), num_classes=10)
    leaves = traverse_util.flatten_dict(variables).values()
    assert {str(leaf.dtype) for leaf in leaves} == {kept}


def test_bfloat16_becomes_float32() -> None:
    entries = {key: array.astype(jnp.bfloat16) for key, array in state_dict().items()}
    variables = pretrained.from_torch(NETWORK, entries, num_classes=10)
    back = pretrained.to_torch(NETWORK, variables)
    for key, array in entries.items():
        np.testing.assert_array_equal(back[key], array.astype(np.float32))


def test_num_batches_tracked_is_ignored() -> None:
    entries = state_dict()
    counted = {**entries, "features.1.num_batches_tracked": np.asarray(3)}
    variables = pretrained.from_torch(NETWORK, counted, num_classes=10)
    assert set(pretrained.to_torch(NETWORK, variables)) == set(entries)


def test_one_message_lists_all_entries_that_do_not_fit() -> None:
    entries = state_dict()
    del entries["features.0.bias"]
    entries["features.99.weight"] = np.zeros((2, 3))
    entries["classifier.1.bias"] = np.zeros(1000)
    with pytest.raises(errors.UserError) as caught:
        pretrained.from_torch(NETWORK, entries, num_classes=10)
    assert str(caught.value).split("; ") == [
        "the weights do not fit squeezenet1_1: missing: features.0.bias (64,)",
        "unexpected: features.99.weight (2, 3)",
        "misshapen: classifier.1.bias has shape (1000,), expected (10,)",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("squeezenet", "unknown model 'squeezenet'; did you mean 'squeezenet1_1'"),
        ("lenet", "unknown network with published weights 'lenet'.* allowed: .*vgg16"),
    ],
)
def test_an_unknown_network_is_an_error(name: str, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        pretrained.from_torch(name, {})


@pytest.mark.parametrize("size", [(4, 4), (2, 8)])
def test_a_dense_kernel_is_permuted_to_the_order_of_a_flattened_image(
    size: tuple[int, int],
) -> None:
    rng = np.random.default_rng(0)
    images, weight = rng.normal(size=(2, *size, 3)), rng.normal(size=(5, 48))
    theirs = images.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T
    ours = images.reshape(2, -1) @ layout.from_torch(weight, channels=3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_array_equal(
        layout.to_torch(layout.from_torch(weight, channels=3), channels=3), weight
    )


def test_a_safetensors_file_becomes_variables(tmp_path: Path) -> None:
    entries = state_dict()
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(entries))
    variables = pretrained.from_torch(NETWORK, pretrained.read_state_dict(path), num_classes=10)
    model = models.create(NETWORK, num_classes=10)
    logits = model.apply(variables, jnp.zeros((1, 33, 33, 3)), train=False)
    assert jnp.asarray(logits).shape == (1, 10)
