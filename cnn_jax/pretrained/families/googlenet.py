"""GoogLeNet with batch normalisation in torchvision."""

from cnn_jax.pretrained.families.names import Names

NAMES = {
    "googlenet_bn": Names(
        (
            (r"(branch\d)_(\d)", r"\1.\2"),
            ("branch4", "branch4.1"),  # What is first there is the pooling.
        ),
        {"aux1.fc1": 128, "aux2.fc1": 128},
    )
}
