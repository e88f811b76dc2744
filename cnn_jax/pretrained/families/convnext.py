"""Rename table of ConvNeXt, for timm."""

from cnn_jax.models import convnext
from cnn_jax.pretrained.families.names import Names

_NAMES = Names(
    (
        (r"^stages_(\d)_(blocks|downsample)_", r"stages.\1.\2."),
        ("^stem_conv$", "stem.0"),
        ("^stem_norm$", "stem.1"),
        (r"downsample\.norm$", "downsample.0"),
        (r"downsample\.conv$", "downsample.1"),
        (r"\.layer_scale$", ""),
        ("^head_", "head."),
    )
)

NAMES = dict.fromkeys(convnext.VARIANTS, _NAMES)
