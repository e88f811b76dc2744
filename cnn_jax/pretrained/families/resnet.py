"""Rename tables of ResNet, ResNeXt and Wide ResNet, for torchvision and timm."""

from cnn_jax.pretrained.families.names import Names

_BLOCKS = (
    (r"^(layer\d)_(\d+)", r"\1.\2"),
    (r"downsample_conv$", "downsample.0"),
    (r"downsample_bn$", "downsample.1"),
    (r"\bse\.reduce$", "se.fc1"),
    (r"\bse\.expand$", "se.fc2"),
)
# ResNet-D in timm: the shortcut is a Sequential whose element 0 is the pooling. The stem is a
# Sequential of convolutions, normalisations and activations.
_RESNET_D = (
    (r"downsample_conv$", "downsample.1"),
    (r"downsample_bn$", "downsample.2"),
    (r"^stem_conv1$", "conv1.0"),
    (r"^stem_bn1$", "conv1.1"),
    (r"^stem_conv2$", "conv1.3"),
    (r"^stem_bn2$", "conv1.4"),
    (r"^conv1$", "conv1.6"),
)

NAMES = {
    **{
        name: Names(_BLOCKS)
        for name in (
            *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
            *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
        )
    },
    "resnet50d": Names((*_RESNET_D, *_BLOCKS)),
}
