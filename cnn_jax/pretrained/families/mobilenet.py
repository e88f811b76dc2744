"""Rename tables of MobileNet v1, v2 and v3, for timm."""

from cnn_jax.models import mobilenet
from cnn_jax.pretrained.families import inverted_residual
from cnn_jax.pretrained.families.names import Names

_RULES = {
    "mobilenetv1": inverted_residual.rules(unexpanded=(1, 2, 3, 4, 5)),
    "mobilenetv2": inverted_residual.rules(),
    # The last stage is a convolution with normalisation; the head is a convolution without one.
    "mobilenetv3": (
        *inverted_residual.rules(),
        (r"^(blocks\.\d\.0)\.bn$", r"\1.bn1"),
        ("^head$", "conv_head"),
    ),
}

NAMES = {name: Names(_RULES[name.partition("_")[0]]) for name in mobilenet.VARIANTS}
