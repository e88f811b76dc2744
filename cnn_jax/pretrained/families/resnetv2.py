"""Rename table of the pre-activation ResNets, for timm."""

from cnn_jax.pretrained.families.names import Names

_RULES = (
    *((rf"^stage{stage + 1}_(\d+)", rf"stages.{stage}.blocks.\1") for stage in range(4)),
    (r"\bdownsample_conv$", "downsample.conv"),
    ("^stem_conv$", "stem.conv"),
    ("^head_fc$", "head.fc"),
)

NAMES = {
    name: Names(_RULES, convolved={"head_fc": 1})
    for name in ("resnetv2_50", "resnetv2_101", "resnetv2_152")
}
