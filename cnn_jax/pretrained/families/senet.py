"""Squeeze-and-excitation networks in timm, the released ones under `legacy_`."""

from cnn_jax.pretrained.families import resnet
from cnn_jax.pretrained.families.names import Names

_RESNET = resnet.NAMES["resnet50"].rules
_RELEASED = ((r"^(conv|bn)", r"layer0.\1"), (r"\bse\b", "se_module"))

NAMES = {
    "seresnet50": Names(_RESNET),
    "seresnext50_32x4d": Names(_RESNET),
    "legacy_seresnet50": Names((*_RESNET, *_RELEASED)),
    "senet154": Names((*_RESNET, *_RELEASED)),
}
