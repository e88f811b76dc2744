"""Xception with ImageNet weights on TensorFlow's flowers: the head first, then half of the network.

The walk-through of Géron's chapter on convolutional networks: 3,670 photographs of five flowers,
10 % for the test, 15 % for validation and 75 % for training. The head is trained for 3 epochs at
rate 0.1, then everything from the sixth residual block on for 10 epochs at rate 0.01. That block is
`block7` of Keras, whose first convolutions are `block1`.

Source: Géron 2022, Hands-On Machine Learning, 3rd edition, chapter 14, 'Pretrained Models for
Transfer Learning': SGD with momentum 0.9, constant rates, batches of 32, images cropped to 224x224
and scaled to [-1, 1], mirrored, turned by up to 18 degrees and with random contrast; no dropout.
Turned images are black outside, where Keras mirrors the border.
Command: python -m cnn_jax.main --config=configs/xception_flowers.py
Result: not yet run; it downloads the set and the weights, which timm converted from Keras.
"""

from ml_collections import ConfigDict

from configs import base

FROM_SIXTH_BLOCK = r"^block([6-9]|1[0-2])/, ^(conv|bn)[34]/, head"


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.get_config()
    config.model.update(name="xception", dropout_rate=0.0)
    config.init.weights = "" if variant else "legacy_xception.tf_in1k"
    config.data.update(
        source="tfds",
        name="tf_flowers:3.0.1",
        test_split="train[:10%]",
        validation_split="train[10%:25%]",
        train_split="train[25%:]",
        image_size=224,
        channels=3,
        resize="bilinear",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        flip=True,
        augment=(
            ("random_affine", {"degrees": 18.0, "interpolation": "bilinear"}),
            ("colour_jitter", {"contrast": 0.2}),
        ),
    )
    config.optim.momentum = 0.9
    config.train.batch_size = 32
    config.eval.batch_size = 64
    config.phases = (
        {"epochs": 3.0, "trainable": "head", "optim": {"learning_rate": 0.1}},
        {"epochs": 10.0, "trainable": FROM_SIXTH_BLOCK, "optim": {"learning_rate": 0.01}},
    )
    return base.finish(config, variant, smoke_image_size=71)
