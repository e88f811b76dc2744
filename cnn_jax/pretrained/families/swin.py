"""Rename table of the Swin Transformer, for timm."""

from cnn_jax.models import swin
from cnn_jax.pretrained.families.names import Names

_NAMES = Names(
    (
        (r"^layers_(\d)_(blocks|downsample)_", r"layers.\1.\2."),
        ("^patch_embed_", "patch_embed."),
        ("^head_", "head."),
    )
)

NAMES = dict.fromkeys(swin.VARIANTS, _NAMES)
