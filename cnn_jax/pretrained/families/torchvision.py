"""Rename tables for torchvision, as an alternative to those of the families.

`NAMES` holds torchvision's names of networks whose main table is timm's. `OLD_NAMES` holds the
names in files that torchvision released before it renamed the modules.
"""

from collections.abc import Iterator
from types import MappingProxyType

from cnn_jax.models import convnext, mobilenet, swin
from cnn_jax.pretrained.families import densenet
from cnn_jax.pretrained.families.names import Names

_Rules = tuple[tuple[str, str], ...]

_LAYERS = (
    (r"\.reduce$", ".fc1"),
    (r"\.expand$", ".fc2"),
    (r"\.conv$", ".0"),
    (r"\.bn$", ".1"),
)
_STEM = ("^stem", "features.0")


def _children(block: str, *names: str) -> _Rules:
    """Returns rules that give each child of a block its position in torchvision's Sequential.

    Args:
      block: a regular expression for the blocks.
      *names: our names of the children, in order of position.
    """
    return tuple(
        (rf"^({block})\.{name}\b", rf"\1.block.{position}") for position, name in enumerate(names)
    )


_EFFICIENTNET = (
    *_children(r"stage1_\d+", "depthwise", "se", "project"),
    *_children(r"stage[2-7]_\d+", "expand", "depthwise", "se", "project"),
    (r"^stage(\d)_(\d+)", r"features.\1.\2"),
    _STEM,
    ("^head", "features.8"),
    *_LAYERS,
    ("^classifier$", "classifier.1"),
)


def _numbered(depths: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Yields rules that number the blocks of all stages from 1; the stem is number 0.

    Args:
      depths: the number of blocks in each stage.
    """
    blocks = (f"stage{stage}_{i}" for stage, depth in enumerate(depths, 1) for i in range(depth))
    for number, block in enumerate(blocks, 1):
        yield rf"^{block}\b", f"features.{number}"


_MOBILENET_V2 = (
    *_children(r"stage1_\d+", "depthwise", "project"),
    *_children(r"stage[2-7]_\d+", "expand", "depthwise", "project"),
    (r"\.block\.", ".conv."),
    # A block's last convolution and its normalisation have separate positions in torchvision. The
    # other pairs share one, as elements of a Conv2dNormActivation.
    (r"^(stage1_\d+\.conv)\.1\.conv$", r"\1.1"),
    (r"^(stage1_\d+\.conv)\.1\.bn$", r"\1.2"),
    (r"^(stage\d_\d+\.conv)\.2\.conv$", r"\1.2"),
    (r"^(stage\d_\d+\.conv)\.2\.bn$", r"\1.3"),
    *_numbered((1, 2, 3, 4, 3, 3, 1)),
    _STEM,
    ("^head", "features.18"),
    *_LAYERS,
    ("^classifier$", "classifier.1"),
)


def _mobilenet_v3(form: mobilenet.Form) -> Iterator[tuple[str, str]]:
    """Yields the rules of a MobileNet v3, given its stages."""
    for number, stage in enumerate(form.stages, 1):
        for index, block in enumerate(stage):
            children = (
                *(("expand",) if number > 1 else ()),
                "depthwise",
                *(("se",) if block.squeeze else ()),
                "project",
            )
            yield from _children(f"stage{number}_{index}", *children)
    yield from _numbered((*map(len, form.stages), 1))
    yield _STEM
    yield "^head$", "classifier.0"
    yield "^classifier$", "classifier.3"
    yield from _LAYERS


_CONVNEXT = (
    *((rf"^stages_{k}_blocks_", f"features.{2 * k + 1}.") for k in range(4)),
    *((rf"^stages_{k}_downsample_norm$", f"features.{2 * k}.0") for k in range(4)),
    *((rf"^stages_{k}_downsample_conv$", f"features.{2 * k}.1") for k in range(4)),
    (r"\.conv_dw$", ".block.0"),
    (r"\.norm$", ".block.2"),
    (r"\.mlp\.fc1$", ".block.3"),
    (r"\.mlp\.fc2$", ".block.5"),
    ("^stem_conv$", "features.0.0"),
    ("^stem_norm$", "features.0.1"),
    ("^head_norm$", "classifier.0"),
    ("^head_fc$", "classifier.2"),
)

_SWIN = (
    *((rf"^layers_{k}_blocks_", f"features.{2 * k + 1}.") for k in range(4)),
    *((rf"^layers_{k}_downsample_", f"features.{2 * k}.") for k in range(4)),
    ("^patch_embed_proj$", "features.0.0"),
    ("^patch_embed_norm$", "features.0.2"),
    (r"\.mlp\.fc1$", ".mlp.0"),
    (r"\.mlp\.fc2$", ".mlp.3"),
    ("^head_fc$", "head"),
)

_VIT = (
    (r"^blocks_(\d+)", r"encoder.layers.encoder_layer_\1"),
    (r"\.norm(\d)$", r".ln_\1"),
    (r"\.attn\.qkv$", ".self_attention.in_proj"),
    (r"\.attn\.proj$", ".self_attention.out_proj"),
    ("^patch_embed_proj$", "conv_proj"),
    ("^norm$", "encoder.ln"),
    ("^head$", "heads.head"),
)
_VIT_ENTRIES = (
    (r"\.in_proj\.", ".in_proj_"),
    ("^cls_token$", "class_token"),
    ("^pos_embed$", "encoder.pos_embedding"),
)

# Torchvision builds these networks with TensorFlow's epsilon of batch normalisation.
_TF_EPSILON = MappingProxyType({"epsilon": 1e-3})

NAMES = {
    **{f"efficientnet_b{number}": Names(_EFFICIENTNET) for number in range(5)},
    **{
        f"efficientnet_b{number}": Names(_EFFICIENTNET, options=_TF_EPSILON) for number in (5, 6, 7)
    },
    "mobilenetv2_100": Names(_MOBILENET_V2),
    **{
        f"mobilenetv3_{form}_100": Names(
            tuple(_mobilenet_v3(mobilenet.FORMS[form])), options=_TF_EPSILON
        )
        for form in mobilenet.FORMS
    },
    **{
        name: Names(_CONVNEXT, entries=((r"\.layer_scale\.gamma$", ".layer_scale"),))
        for name in convnext.VARIANTS
    },
    **{name: Names(_SWIN) for name in swin.VARIANTS},
    "vit_base_patch16_224": Names(
        (*_VIT, (r"\.mlp\.fc1$", ".mlp.0"), (r"\.mlp\.fc2$", ".mlp.3")), entries=_VIT_ENTRIES
    ),
}
OLD_NAMES = {
    **{
        name: Names((*names.rules, (r"(denselayer\d+\.(?:norm|conv))([12])$", r"\1.\2")))
        for name, names in densenet.NAMES.items()
    },
    "vit_base_patch16_224": Names(
        (*_VIT, (r"\.mlp\.fc([12])$", r".mlp.linear_\1")), entries=_VIT_ENTRIES
    ),
}
