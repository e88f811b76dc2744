"""Tests of `models.depths`: the layers of networks."""

import functools
from typing import Any

import jax
import pytest
from flax import linen as nn

from cnn_jax import errors, models
from cnn_jax.models import depth, structure
from cnn_jax.runtime import patterns
from tests.models.test_structure import CASES, HEADS

SHAPE = (8, 8, 3)
# One of each kind of tree: without blocks, with blocks, with stages, with arrays of its own.
FAST = ("mlp", "cspresnet50", "densenet121", "vit_tiny_patch16_224")
OTHERS = [name for name in CASES if name not in (*FAST, "logistic_regression")]


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_every_parameter_is_in_a_layer_and_the_head_in_the_last_one(name: str) -> None:
    model, shape = case(name)
    found = models.depths(model, shape)
    numbers = set(found.values())
    assert numbers == set(range(len(numbers)))
    params = patterns.paths(structure.variables_of(model, shape)["params"])
    inside = [[path for path in found if f"{one}/".startswith(f"{path}/")] for one in params]
    assert {len(paths) for paths in inside} == {1}
    if name in HEADS:
        assert found[HEADS[name]] == max(numbers)


def case(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    size, options = CASES[name]
    shape = (size, size, models.input_shape(name)[2])
    return models.create(name, num_classes=3, **options), shape


def test_layers_of_resnet() -> None:
    """The stem, two blocks in each of four stages, and the dense layer."""
    blocks = [f"layer{stage}_{block}" for stage in range(1, 5) for block in range(2)]
    layers = {name: number for number, name in enumerate(blocks, start=1)}
    assert models.depths("resnet18") == {"conv1": 0, "bn1": 0, **layers, "fc": 9}


def test_layers_of_a_network_with_stages_that_recomputes_its_blocks() -> None:
    model, shape = case("densenet121")
    assert models.depths(model.copy(remat=True), shape) == {
        "conv0": 0,
        "norm0": 0,
        "denseblock1/denselayer1": 1,
        "denseblock1/denselayer2": 2,
        "transition1": 3,
        "denseblock2": 3,
        "norm5": 4,
        "classifier": 4,
    }


def test_downsampling_is_in_the_layer_of_the_next_block() -> None:
    assert models.depths(*case("swin_tiny_patch4_window7_224")) == {
        "patch_embed_proj": 0,
        "patch_embed_norm": 0,
        "layers_0_blocks_0": 1,
        "layers_1_downsample_norm": 2,
        "layers_1_downsample_reduction": 2,
        "layers_1_blocks_0": 2,
        "layers_1_blocks_1": 3,
        "norm": 4,
        "head_fc": 4,
    }


class Residual(nn.Module):
    """Block of two convolutions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + nn.Conv(4, (3, 3))(nn.relu(nn.Conv(4, (3, 3))(x)))


class Backbone(nn.Module):
    """Stem, two blocks and a normalisation, none of which is named in the order of the calls."""

    def setup(self) -> None:
        self.last = nn.LayerNorm()
        self.blocks = [Residual(), Residual()]
        self.patches = nn.Conv(4, (2, 2), strides=2)
        self.pos_embedding = self.param("pos_embedding", nn.initializers.zeros, (1, 4, 4, 4))

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.patches(images) + self.pos_embedding
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Classifier(nn.Module):
    """Network of a user, with a backbone, a head for training only and an array of its own."""

    num_classes: int = 3
    own: str = "token"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = Backbone(name="body")(images).mean((1, 2))
        x += self.param(self.own, nn.initializers.zeros, (4,))
        if train or self.is_initializing():
            nn.Dense(self.num_classes, name="auxiliary")(x)
        return nn.Dense(self.num_classes, name="a_head")(x)


def test_layers_of_a_network_of_a_user() -> None:
    assert models.depths(Classifier(), SHAPE) == {
        "token": 0,
        "body/patches": 0,
        "body/pos_embedding": 0,
        "body/blocks_0": 1,
        "body/blocks_1": 2,
        "body/last": 3,
        "a_head": 3,
        "auxiliary": 3,
    }


class Blocks(nn.Module):
    """Two blocks without a stem, and a head."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        blocks = [Residual(name=name) for name in "zy"]
        x = functools.reduce(lambda x, block: block(x), blocks, images.mean(-1, keepdims=True))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def test_without_a_stem_the_first_block_is_layer_0() -> None:
    assert models.depths(Blocks(), SHAPE) == {"z": 0, "y": 1, "head": 2}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.create("logistic_regression", num_classes=3), "has one layer, so no rates by lay"),
        (Classifier(own="weights"), "the layer of the array weights of Classifier is unknown"),
    ],
)
def test_a_network_without_layers_is_refused(model: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        depth.depths(model, SHAPE)
