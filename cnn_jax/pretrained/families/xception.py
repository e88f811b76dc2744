"""Xception in timm."""

from cnn_jax.pretrained.families.names import Names

# Where convolution and normalisation are in a block's sequence. Each ReLU counts; the first block
# does not begin with one.
_PLACES = (
    (r"^(block1\.)sepconv1", r"\1rep.0"),
    (r"^(block1\.)bn1$", r"\1rep.1"),
    (r"^(block1\.)sepconv2", r"\1rep.3"),
    (r"^(block1\.)bn2$", r"\1rep.4"),
    *((rf"^(block\d+\.)sepconv{i}", rf"\1rep.{3 * i - 2}") for i in (1, 2, 3)),
    *((rf"^(block\d+\.)bn{i}$", rf"\1rep.{3 * i - 1}") for i in (1, 2, 3)),
)

NAMES = {"xception": Names((*_PLACES, (r"\.depthwise$", ".conv1")))}
