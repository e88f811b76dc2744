"""Inception v4 and Inception-ResNet v2 in timm."""

from cnn_jax.models import inception_v4
from cnn_jax.pretrained.families.names import Names

# A branch's pooling counts as its first step; blocks C alone number their branches with `_`.
_BRANCHES = (
    ("branch3", "branch3.1"),
    (r"(?<!inception_c\d\.)(branch\d)_(\d)", r"\1.\2"),
)

NAMES = {
    "inception_v4": Names(
        (
            *_BRANCHES,
            *((rf"^{name}\b", f"features.{i}") for i, name in enumerate(inception_v4.PARTS)),
        )
    ),
    "inception_resnet_v2": Names(
        (
            *_BRANCHES,
            ("^block35_", "repeat."),
            ("^block17_", "repeat_1."),
            ("^block8_", "repeat_2."),
        )
    ),
}
