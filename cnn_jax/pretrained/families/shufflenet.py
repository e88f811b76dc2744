"""Rename table of ShuffleNet v2, for torchvision.

Torchvision's branches are Sequentials: the position of a layer also counts the activations.
"""

from cnn_jax.models import shufflenet
from cnn_jax.pretrained.families.names import Names

_RULES = (
    (r"^(stage\d)_(\d+)", r"\1.\2"),
    (r"branch1_depthwise\.conv$", "branch1.0"),
    (r"branch1_depthwise\.bn$", "branch1.1"),
    (r"branch1_last\.conv$", "branch1.2"),
    (r"branch1_last\.bn$", "branch1.3"),
    (r"branch2_first\.conv$", "branch2.0"),
    (r"branch2_first\.bn$", "branch2.1"),
    (r"branch2_depthwise\.conv$", "branch2.3"),
    (r"branch2_depthwise\.bn$", "branch2.4"),
    (r"branch2_last\.conv$", "branch2.5"),
    (r"branch2_last\.bn$", "branch2.6"),
    (r"^(conv\d)\.conv$", r"\1.0"),
    (r"^(conv\d)\.bn$", r"\1.1"),
)

NAMES = {name: Names(_RULES) for name in shufflenet.VARIANTS}
