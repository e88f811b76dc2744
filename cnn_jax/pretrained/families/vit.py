"""Rename table of the Vision Transformer, for timm."""

from cnn_jax.models import vit
from cnn_jax.pretrained.families.names import Names

_NAMES = Names((("^blocks_", "blocks."), ("^patch_embed_", "patch_embed.")))

NAMES = dict.fromkeys(vit.VARIANTS, _NAMES)
