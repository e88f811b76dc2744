"""Tests that the sizes of pooled maps are rounded as in the source of each network.

tests/models/test_alexnet.py has the AlexNets, test_senet.py the released squeeze-and-excitation
networks.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import models

# Caffe, pooling_layer.cpp: ceil((size - 3) / 2) + 1 for windows of 3 pixels and stride 2. Sides of
# square maps for square images.
CASES = [
    # 112 pixels after conv1. Caffe's bvlc_googlenet; Table 1 of the paper has the same sizes.
    ("googlenet", 224, {"maxpool1": 56, "maxpool2": 28, "maxpool3": 14, "maxpool4": 7}),
    # torchvision's GoogLeNet: ceil_mode=True.
    ("googlenet_bn", 224, {"maxpool1": 56, "maxpool2": 28, "maxpool3": 14, "maxpool4": 7}),
    # light_inception_v2.onnx of onnx 1.16.2: padding of one pixel at the end.
    ("bn_inception", 224, {"pool1": 56, "pool2": 28, "inception_3c": 14, "inception_4e": 7}),
    # github.com/forresti/SqueezeNet, a Caffe network; torchvision: ceil_mode=True.
    ("squeezenet1_0", 224, {"conv1": 109, "fire4": 54, "fire8": 27, "fire9": 13}),
    ("squeezenet1_1", 224, {"conv1": 111, "fire3": 55, "fire5": 27, "fire9": 13}),
    # Caffe networks; the maps before each pooling.
    ("nin", 224, {"stage1": 54, "stage2": 27, "stage3": 13, "stage4": 6}),
    ("nin_cifar", 32, {"stage1": 32, "stage2": 16, "stage3": 8}),
    # cuda-convnet, layer.py: ceil((size - 3) / 2) + 1 as well.
    ("cuda_convnet_quick", 32, {"stage1": 16, "stage2": 8, "stage3": 4}),
    ("cuda_convnet_18pct", 24, {"stage1": 12, "stage2": 6, "stage3": 3}),
]


@pytest.mark.parametrize(("name", "size", "sides"), CASES)
def test_sides_of_maps_are_those_of_the_source(name: str, size: int, sides: dict[str, int]) -> None:
    options: dict[str, Any] = {"auxiliary_heads": False} if name.startswith("google") else {}
    model = models.create(name, num_classes=10, **options)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    found = jax.eval_shape(lambda v, x: models.features(model, v, x), variables, images)
    assert {stage: found[stage].shape[1:3] for stage in sides} == {
        stage: (side, side) for stage, side in sides.items()
    }
