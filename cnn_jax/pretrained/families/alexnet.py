"""Rename table of AlexNet, for torchvision.

Torchvision names layers by their position in a Sequential, which also counts poolings,
activations and dropout.
"""

from cnn_jax.pretrained.families.names import Names

NAMES = {
    "alexnet_owt": Names(
        rules=(
            ("^conv1$", "features.0"),
            ("^conv2$", "features.3"),
            ("^conv3$", "features.6"),
            ("^conv4$", "features.8"),
            ("^conv5$", "features.10"),
            ("^fc6$", "classifier.1"),
            ("^fc7$", "classifier.4"),
            ("^fc8$", "classifier.6"),
        ),
        flattened={"fc6": 256},
    )
}
