"""Rename tables of the squeeze-and-excitation networks, for timm.

The networks that the authors released have the prefix `legacy_` in timm.
"""

from cnn_jax.pretrained.families import resnet
from cnn_jax.pretrained.families.names import Names

_RESNET = resnet.NAMES["resnet50"].rules
_LEGACY = ((r"^(conv|bn)", r"layer0.\1"), (r"\bse\b", "se_module"))

NAMES = {
    "seresnet50": Names(_RESNET),
    "seresnext50_32x4d": Names(_RESNET),
    "legacy_seresnet50": Names((*_RESNET, *_LEGACY)),
    "senet154": Names((*_RESNET, *_LEGACY)),
}
