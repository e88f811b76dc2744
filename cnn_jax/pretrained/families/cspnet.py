"""Rename table of CSPNet, for timm."""

from cnn_jax.models import cspnet
from cnn_jax.pretrained.families.names import Names

_RULES = (
    (r"\b(stages|blocks)_", r"\1."),
    ("^stem_", "stem."),
    ("^fc$", "head.fc"),
)

NAMES = {name: Names(_RULES) for name in cspnet.VARIANTS}
