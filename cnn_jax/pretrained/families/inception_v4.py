"""Rename tables of Inception v4 and Inception-ResNet v2, for timm."""

from cnn_jax.models import inception_v4
from cnn_jax.pretrained.families.names import Names

# In timm, a branch of several layers is a Sequential, and element 0 of branch3 is the pooling. The
# branches 0 to 2 of Inception-C blocks have no Sequential: they keep names such as `branch1_0`.
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
