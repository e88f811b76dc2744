"""Rename tables: the names and shapes of torchvision's networks and released files.

`data/names.json` holds digests of the names and shapes that torchvision and timm list, including
the old names in released files.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import errors, models, pretrained
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.formats import released
from cnn_jax.pretrained.network import Network
from tests.pretrained import checkpoints
from tests.pretrained.checkpoints import NETWORK, state_dict

DIGESTS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "data" / "names.json").read_text()
)["digests"]
# One network per rename table; the others differ only in the number and width of layers.
FAST = (
    "densenet121", "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_100", "vgg11",
    "convnext_tiny", "swin_tiny_patch4_window7_224", "vit_base_patch16_224",
)  # fmt: skip


def digest(entries: Iterable[convert.Entry]) -> str:
    lines = sorted(f"{entry.name} {essential(entry.shape)}" for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def essential(shape: tuple[int, ...]) -> list[int]:
    """Removes trailing axes of length 1."""
    return essential(shape[:-1]) if shape and shape[-1] == 1 else list(shape)


@pytest.mark.parametrize(
    "network",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in DIGESTS],
)
def test_names_and_shapes_equal_the_reference(network: str) -> None:
    reference = Network.of(network, None, {})
    shapes = reference.shapes(1000)
    found = set()
    for table in tables.for_network(network):
        names = {table.torch(path[1:]): np.zeros(()) for path in shapes}
        found.add(digest(convert.entries(reference, names, 1000).values()))
    assert set(DIGESTS[network]) <= found
    checkpoints.assert_exports_are_owned(network, shapes)  # Tracing takes most of the time.


@pytest.mark.full  # `test_saving` has the smallest network of each family.
@pytest.mark.parametrize("network", sorted({*models.names()} - {*DIGESTS}))
def test_exported_arrays_are_owned(network: str) -> None:
    shapes = Network.of(network, None, {}).shapes(2)
    checkpoints.assert_exports_are_owned(network, shapes)


def test_every_released_file_is_for_a_network_with_digests() -> None:
    networks = {known.network for known in released.FILES.values()}
    assert networks - DIGESTS.keys() == {"tf_efficientnet_lite0"}


@pytest.mark.parametrize(
    ("key", "expected"), [("features.0.0.weight", {"epsilon": 1e-3}), ("conv_stem.weight", {})]
)
def test_torchvisions_names_select_its_epsilon(key: str, expected: dict[str, float]) -> None:
    network = Network.of("mobilenetv3_small_100", None, {})
    assert convert.options(network, {key: np.zeros(())}) == expected


def test_trailing_axes_of_length_1_are_ignored() -> None:
    entries = state_dict()
    weight = entries["classifier.1.weight"]
    assert weight.shape == (10, 512, 1, 1)
    dense = {**entries, "classifier.1.weight": weight[..., 0, 0]}
    found, expected = (
        pretrained.to_torch(NETWORK, pretrained.from_torch(NETWORK, given, num_classes=10))
        for given in (dense, entries)
    )
    np.testing.assert_array_equal(found["classifier.1.weight"], expected["classifier.1.weight"])
    transposed = {**entries, "classifier.1.weight": weight.transpose(2, 3, 0, 1)}
    with pytest.raises(errors.UserError, match=r"misshapen: classifier\.1\.weight"):
        pretrained.from_torch(NETWORK, transposed, num_classes=10)
