"""Rename table of GoogLeNet with batch normalisation, for torchvision."""

from cnn_jax.pretrained.families.names import Names

NAMES = {
    "googlenet_bn": Names(
        (
            (r"(branch\d)_(\d)", r"\1.\2"),
            ("branch4", "branch4.1"),  # Torchvision's branch4.0 is the pooling.
        ),
        {"aux1.fc1": 128, "aux2.fc1": 128},
    )
}
