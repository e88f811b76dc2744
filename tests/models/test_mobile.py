"""Tests of MobileNets, EfficientNets and ShuffleNets that the golden files do not cover."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.models import efficientnet, inverted_residual, layers, shufflenet
from cnn_jax.pretrained.families import efficientnet as names


def features_of(name: str, size: int, **overrides: Any) -> dict[str, tuple[int, ...]]:
    """Returns `[H, W, C]` of each endpoint for a square image of `size` pixels."""
    model = models.create(name, num_classes=10, **overrides)
    images = jnp.zeros((1, size, size, 3))

    def stages() -> dict[str, jax.Array]:
        variables = model.init(jax.random.key(0), images, train=False)
        return models.features(model, variables, images)

    return {stage: x.shape[1:] for stage, x in jax.eval_shape(stages).items()}


@pytest.mark.slow
def test_endpoint_shapes_equal_the_papers_tables() -> None:
    assert features_of("efficientnet_b0", 224) == {
        "stem": (112, 112, 32),
        "stage1": (112, 112, 16),
        "stage2": (56, 56, 24),
        "stage3": (28, 28, 40),
        "stage4": (14, 14, 80),
        "stage5": (14, 14, 112),
        "stage6": (7, 7, 192),
        "stage7": (7, 7, 320),
        "head": (7, 7, 1280),
    }
    assert features_of("shufflenet_v2_x1_0", 224) == {
        "stem": (112, 112, 24),
        "stage2": (28, 28, 116),
        "stage3": (14, 14, 232),
        "stage4": (7, 7, 464),
        "head": (7, 7, 1024),
    }
    assert features_of("mobilenetv3_small_100", 224)["stage6"] == (7, 7, 576)


def test_strides_of_one_reduce_the_downsampling() -> None:
    strides = (1, 1, 2, 2, 1, 1, 2, 1)
    stages = features_of("mobilenetv2_050", 32, strides=strides)
    assert [stages[f"stage{i}"][0] for i in range(1, 8)] == [32, 16, 8, 8, 8, 4, 4]
    assert features_of("mobilenetv1_025", 32, strides=(1, 1, 1, 2, 2, 2))["stage5"][0] == 4


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mobilenetv1_100", {"strides": (2, 1)}, "model.strides must hold 6 numbers"),
        ("mobilenetv2_100", {"strides": (2,) * 9}, "model.strides must hold 8 numbers"),
        ("mobilenetv3_large_100", {"form": "larg"}, "'larg'; did you mean 'large'?"),
    ],
)
def test_invalid_options_raise(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        features_of(name, 32, **overrides)


def test_lite_networks_scale_neither_stem_and_head_nor_the_end_depths() -> None:
    depths = {
        name: efficientnet.VARIANTS[name].build(num_classes=1).depths
        for name in ("efficientnet_b4", "efficientnet_lite4")
    }
    assert depths == {
        "efficientnet_b4": (2, 4, 4, 6, 6, 8, 2),
        "efficientnet_lite4": (1, 4, 4, 6, 6, 8, 1),
    }
    stages = features_of("efficientnet_lite4", 32)
    assert (stages["stem"][-1], stages["head"][-1]) == (32, 1280)
    assert stages["stage7"][-1] == 448


def test_stride_two_has_no_shortcut_even_if_the_shape_is_unchanged() -> None:
    """Zero scale in `project` leaves only the shortcut: zeros with stride 2, `x` with stride 1.

    A 1x1 image keeps its shape at stride 2, but the papers add a shortcut at stride 1 only.
    """
    block = inverted_residual.InvertedResidual(
        features=8,
        expanded=16,
        kernel_size=3,
        stride=2,
        unit=inverted_residual.MobileNetwork(num_classes=1).unit(jax.nn.relu, train=False),
        train=False,
    )
    x = jnp.ones((1, 1, 1, 8))
    variables = block.init(jax.random.key(0), x)
    scale = variables["params"]["project"]["bn"]
    scale["scale"] = jnp.zeros(8)
    np.testing.assert_array_equal(block.apply(variables, x), jnp.zeros((1, 1, 1, 8)))
    np.testing.assert_array_equal(block.copy(stride=1).apply(variables, x), x)


def test_stochastic_depth_rates_equal_those_of_the_authors_code() -> None:
    """The rate rises linearly; the last block's rate is one step below the maximum of 0.2."""
    network = efficientnet.VARIANTS["efficientnet_b0"].build(num_classes=1)
    blocks = network._blocks(32, layers.ConvNorm, True)
    rates = [block.keywords["drop_rate"] for stage in blocks for block in stage]
    np.testing.assert_allclose(rates, [0.2 * index / 16 for index in range(16)])


def test_channel_shuffle_interleaves_two_branches() -> None:
    left = jnp.arange(4.0).reshape(1, 1, 1, 4)
    shuffled = shufflenet.channel_shuffle(left, left + 10)
    np.testing.assert_array_equal(shuffled[0, 0, 0], [0, 10, 1, 11, 2, 12, 3, 13])


def test_efficientnet_pytorch_names_number_blocks_across_stages() -> None:
    table = names.LUKEMELAS_NAMES["tf_efficientnet_b0"]
    paths = {
        ("stem", "conv", "kernel"): "_conv_stem.weight",
        ("stem", "bn", "mean"): "_bn0.running_mean",
        ("stage1_0", "depthwise", "bn", "scale"): "_blocks.0._bn1.weight",
        ("stage2_1", "expand", "bn", "scale"): "_blocks.2._bn0.weight",
        ("stage7_0", "se", "reduce", "bias"): "_blocks.15._se_reduce.bias",
        ("stage7_0", "project", "conv", "kernel"): "_blocks.15._project_conv.weight",
        ("head", "bn", "var"): "_bn1.running_var",
        ("classifier", "kernel"): "_fc.weight",
    }
    assert {path: table.torch(path) for path in paths} == paths
