"""Rename table of Xception, for timm."""

from cnn_jax.pretrained.families.names import Names

# Positions of convolutions and normalisations in timm's Sequential `rep` of each block. Every ReLU
# has a position too. Block 1 is the only block that does not start with a ReLU.
_POSITIONS = (
    (r"^(block1\.)sepconv1", r"\1rep.0"),
    (r"^(block1\.)bn1$", r"\1rep.1"),
    (r"^(block1\.)sepconv2", r"\1rep.3"),
    (r"^(block1\.)bn2$", r"\1rep.4"),
    *((rf"^(block\d+\.)sepconv{i}", rf"\1rep.{3 * i - 2}") for i in (1, 2, 3)),
    *((rf"^(block\d+\.)bn{i}$", rf"\1rep.{3 * i - 1}") for i in (1, 2, 3)),
)

NAMES = {"xception": Names((*_POSITIONS, (r"\.depthwise$", ".conv1")))}
