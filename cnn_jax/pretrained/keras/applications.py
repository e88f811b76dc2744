"""Supported networks of `keras.applications`: rename rules and field overrides."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from cnn_jax.pretrained.families.names import Names

Rule = tuple[str, str]

# TensorFlow's padding and Keras' epsilon of batch normalisation.
_TENSORFLOW: Mapping[str, Any] = MappingProxyType({"padding": "SAME", "epsilon": 1e-3})


class Application(NamedTuple):
    """Differences between a network of `keras.applications` and ours.

    Attributes:
      names: rename table to Keras' layer names. Keras numbers convolutions and normalisations that
        have no name. The table gives these layers our names, which end in `.conv` and `.bn`.
      overrides: fields with which our network computes the same as Keras'.
      scaled: whether Keras' batch normalisation has a scale. If not, our scales are set to 1.
      mode: the inputs, as in `keras.applications.imagenet_utils.preprocess_input`: 'caffe' for BGR
        in [0, 255] minus the means of ImageNet, 'tf' for [-1, 1], 'torch' for ImageNet's mean and
        standard deviation. The mode includes layers of the application that normalise.
    """

    names: Names
    overrides: Mapping[str, Any] = MappingProxyType({})
    scaled: bool = True
    mode: Literal["caffe", "tf", "torch"] = "tf"


def _blocks(
    pattern: str, depths: Iterable[int], name: Callable[[int, int, int], str]
) -> Iterable[Rule]:
    """Yields a rename rule for each block.

    Args:
      pattern: regular expression for our name, with two `{}` for the stage (from 1) and the index
        in the stage (from 0).
      depths: the number of blocks in each stage.
      name: returns Keras' name, given the stage, the index in the stage, and the index among all
        blocks (from 0).
    """
    number = 0
    for stage, depth in enumerate(depths, 1):
        for index in range(depth):
            yield pattern.format(stage, index), name(stage, index, number)
            number += 1


def _residual(stage: int, index: int, _: int) -> str:
    """Returns the prefix of a residual block's layers in Keras."""
    return f"conv{stage + 1}_block{index + 1}_"


_RESNET_DEPTHS = (3, 4, 6, 3)
_RESNET = (
    ("^conv1$", "conv1_conv"),
    ("^bn1$", "conv1_bn"),
    *_blocks(r"^layer{}_{}\.", _RESNET_DEPTHS, _residual),
    ("_downsample_", "_0_"),
    (r"_(conv|bn)(\d)$", r"_\2_\1"),
    ("^fc$", "predictions"),
)
_RESNETV2 = (
    ("^stem_conv$", "conv1_conv"),
    *_blocks(r"^stage{}_{}\.", _RESNET_DEPTHS, _residual),
    ("_downsample_", "_0_"),
    (r"_conv(\d)$", r"_\1_conv"),
    ("_norm1$", "_preact_bn"),
    ("_norm2$", "_1_bn"),
    ("_norm3$", "_2_bn"),
    ("^norm$", "post_bn"),
    ("^head_fc$", "predictions"),
)
_INCEPTION_RESNET_V2 = (
    *(
        (rf"^{block}_{i}\.conv2d$", f"{block}_{i + 1}_conv")
        for block, count in (("block35", 10), ("block17", 20), ("block8", 9))
        for i in range(count)
    ),
    (r"^block8\.conv2d$", "block8_10_conv"),
    (r"^conv2d_7b\.conv$", "conv_7b"),
    (r"^conv2d_7b\.bn$", "conv_7b_bn"),
    ("^classif$", "predictions"),
)
_XCEPTION = (
    # Keras' block 1 is our stem of two convolutions. Its block 14 is our conv3 and conv4.
    (r"^conv([12])$", r"block1_conv\1"),
    (r"^bn([12])$", r"block1_conv\1_bn"),
    *((rf"^conv{i + 2}\.", f"block13.sepconv{i}.") for i in (1, 2)),
    *((f"^bn{i + 2}$", f"block13.bn{i}") for i in (1, 2)),
    *((rf"^block{i}\.(?=sepconv|bn)", f"block{i + 1}_") for i in range(1, 14)),
    (r"_bn(\d)$", r"_sepconv\1_bn"),
    (r"\.(depthwise|pointwise)$", r"/\1"),
    (r"\.skip$", ".conv"),
    (r"\.skipbn$", ".bn"),
    ("^fc$", "predictions"),
)
_VGG = (
    (r"^conv(\d)_(\d)$", r"block\1_conv\2"),
    ("^fc6$", "fc1"),
    ("^fc7$", "fc2"),
    ("^fc8$", "predictions"),
)
_DENSENET = (
    ("^conv0$", "conv1_conv"),
    ("^norm0$", "conv1_bn"),
    *(
        rule
        for stage in range(1, 5)
        for rule in (
            (rf"^denseblock{stage}\.denselayer(\d+)\.", rf"conv{stage + 1}_block\1_"),
            (rf"^transition{stage}\.conv$", f"pool{stage + 1}_conv"),
            (rf"^transition{stage}\.norm$", f"pool{stage + 1}_bn"),
        )
    ),
    ("_norm1$", "_0_bn"),
    ("_norm2$", "_1_bn"),
    (r"_conv([12])$", r"_\1_conv"),
    ("^norm5$", "bn"),
    ("^classifier$", "predictions"),
)
_EFFICIENTNET_B0 = (
    *_blocks(
        r"^stage{}_{}\.",
        (1, 2, 2, 3, 3, 4, 1),
        lambda stage, index, _: f"block{stage}{'abcd'[index]}_",
    ),
    (r"_depthwise\.conv$", "_dwconv"),
    (r"_depthwise\.bn$", "_bn"),
    (r"^head\.", "top."),
    (r"\.", "_"),
    ("^classifier$", "predictions"),
)
_MOBILENETV1 = (
    (r"^stem\.", "conv1."),
    *_blocks(r"^stage{}_{}\.", (1, 2, 2, 6, 2), lambda _stage, _index, number: f"{number + 1}."),
    (r"^(\d+)\.depthwise", r"conv_dw_\1"),
    (r"^(\d+)\.project", r"conv_pw_\1"),
    (r"\.conv$", ""),
    (r"\.bn$", "_bn"),
    ("^classifier$", "conv_preds"),
)
_MOBILENETV2 = (
    (r"^stem\.conv$", "Conv1"),
    (r"^stem\.bn$", "bn_Conv1"),
    (r"^head\.", "Conv_1."),
    *_blocks(
        r"^stage{}_{}\.",
        (1, 2, 3, 4, 3, 3, 1),
        lambda _stage, _index, number: f"block_{number}_" if number else "expanded_conv_",
    ),
    (r"\.conv$", ""),
    (r"^Conv_1\.bn$", "Conv_1_bn"),
    (r"\.bn$", "_BN"),
    ("^classifier$", "predictions"),
)
_MOBILENETV3_LARGE = (
    (r"^stem\.", "conv."),
    (r"^stage7_0\.", "conv_1."),
    ("^head$", "conv_2"),
    *_blocks(
        r"^stage{}_{}\.",
        (1, 2, 3, 4, 2, 3),
        lambda _stage, _index, number: f"expanded_conv_{number}_" if number else "expanded_conv_",
    ),
    (r"_se\.reduce$", "_squeeze_excite_conv"),
    (r"_se\.expand$", "_squeeze_excite_conv_1"),
    (r"\.conv$", ""),
    (r"\.bn$", "_bn"),
    ("^classifier$", "logits"),
)

APPLICATIONS: Mapping[str, Application] = MappingProxyType(
    {
        "resnet50_v1": Application(Names(_RESNET), mode="caffe"),
        "resnetv2_50_keras": Application(Names(_RESNETV2)),
        "inception_v3": Application(
            Names((("^fc$", "predictions"),)),
            overrides={"auxiliary_heads": False, "count_include_pad": False},
            scaled=False,
        ),
        "inception_resnet_v2": Application(Names(_INCEPTION_RESNET_V2), scaled=False),
        "xception": Application(Names(_XCEPTION), _TENSORFLOW),
        "densenet121": Application(Names(_DENSENET), {"epsilon": 1.001e-5}, mode="torch"),
        "mobilenetv1_100": Application(
            Names(_MOBILENETV1, convolved={"classifier": 1}), _TENSORFLOW
        ),
        "mobilenetv2_100": Application(Names(_MOBILENETV2), _TENSORFLOW),
        "mobilenetv3_large_100": Application(
            Names(_MOBILENETV3_LARGE, convolved={"classifier": 1}), _TENSORFLOW
        ),
        "tf_efficientnet_b0": Application(Names(_EFFICIENTNET_B0), mode="torch"),
        "vgg16": Application(Names(_VGG), mode="caffe"),
    }
)
