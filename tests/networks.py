"""Table of every registered network with the values that test_models.py checks."""

from typing import NamedTuple


class Network(NamedTuple):
    """Expected properties of a network.

    Attributes:
      parameters: number of trainable parameters for images of `models.input_shape(name)`.
      num_classes: number of classes for which `parameters` holds.
      smallest: the smallest height and width in pixels that the network takes.
      size: height and width in pixels of the images in tests that run the network.
    """

    parameters: int
    num_classes: int
    smallest: int
    size: int

    @property
    def is_large(self) -> bool:
        """Returns True if compiling and running the network is slow."""
        return self.parameters > 1_500_000


NETWORKS = {
    # 28 * 28 * 10 + 10.
    "logistic_regression": Network(7_850, 10, 1, 28),
    # 28 * 28 * 256 + 256 + 256 * 10 + 10.
    "mlp": Network(203_530, 10, 1, 28),
    # LeCun et al. 1998, Fig. 2, with dense C3 and output: 156 + 2,416 + 48,120 + 10,164 + 850.
    "lenet": Network(61_706, 10, 16, 32),
    # LeCun et al. 1998, section II.B: 156 + 12 + 1,516 + 32 + 48,120 + 10,164.
    "lenet5": Network(60_000, 10, 16, 32),
    # Lin et al. 2013 and the authors' Caffe model: the sum over the layers of C'(C K^2 + 1).
    "nin": Network(7_595_176, 1000, 55, 67),
    "nin_cifar": Network(966_986, 10, 6, 32),
    # Géron 2022, chapter 14, model.summary() of the book's notebook.
    "fashion_cnn": Network(1_413_834, 10, 8, 28),
    # cuda-convnet: 2,432 + 25,632 + 51,264 of the convolutions, and of the dense layers
    # 65,600 + 650 or 10,250.
    "cuda_convnet_quick": Network(145_578, 10, 8, 32),
    "cuda_convnet_18pct": Network(89_578, 10, 8, 32),
    # Krizhevsky et al. 2012, Fig. 2: the sum over the layers of C'(C K^2 / groups + 1).
    "alexnet": Network(60_965_224, 1000, 39, 67),
    "alexnet_caffe": Network(60_965_224, 1000, 39, 67),
    "caffenet": Network(60_965_224, 1000, 39, 67),
    # alexnet with 256 x 48 x 25 + 384 x 192 x 9 + 256 x 192 x 9 more weights.
    "alexnet_single": Network(62_378_344, 1000, 39, 67),
    # torchvision's documentation: parameters and smallest images.
    "alexnet_owt": Network(61_100_840, 1000, 63, 63),
    # Dive into Deep Learning, section 8.1: 3,723,968 of the convolutions, 26,218,496, 16,781,312
    # and 40,970 of the dense layers.
    "alexnet_d2l": Network(46_764_746, 10, 65, 65),
    # The ONNX model zoo's zfnet512.
    "zfnet512": Network(87_250_536, 1000, 59, 59),
    # torchvision's documentation.
    "vgg11": Network(132_863_336, 1000, 32, 32),
    "vgg11_bn": Network(132_868_840, 1000, 32, 32),
    "vgg13": Network(133_047_848, 1000, 32, 32),
    "vgg13_bn": Network(133_053_736, 1000, 32, 32),
    "vgg16": Network(138_357_544, 1000, 32, 32),
    "vgg16_bn": Network(138_365_992, 1000, 32, 32),
    "vgg19": Network(143_667_240, 1000, 32, 32),
    "vgg19_bn": Network(143_678_248, 1000, 32, 32),
    # torchvision's documentation.
    "squeezenet1_0": Network(1_248_424, 1000, 21, 37),
    "squeezenet1_1": Network(1_235_496, 1000, 17, 33),
    # Szegedy et al. 2014, Table 1: 6,998,552 as the sum over the layers of C'(C K^2 + 1), plus
    # 3,188,840 and 3,190,888 of the auxiliary heads.
    "googlenet": Network(13_378_280, 1000, 47, 47),
    # torchvision's num_params and min_size, plus 3,188,968 and 3,191,016 of the auxiliary heads.
    "googlenet_bn": Network(13_004_888, 1000, 15, 32),
    # The ONNX model zoo's inception-v2: 10,150,080 of the 69 convolutions, 2 * 9,952 of their
    # normalisation, 1,025,000 of the classifier.
    "bn_inception": Network(11_194_984, 1000, 7, 32),
    # torchvision's num_params. They include 3,326,696 of the auxiliary head, which needs 299x299
    # pixels.
    "inception_v3": Network(27_161_264, 1000, 299, 299),
    # timm.
    "inception_v4": Network(42_679_816, 1000, 75, 75),
    "inception_resnet_v2": Network(55_843_464, 1000, 75, 75),
    # torchvision's documentation.
    "resnet18": Network(11_689_512, 1000, 1, 32),
    "resnet34": Network(21_797_672, 1000, 1, 32),
    "resnet50": Network(25_557_032, 1000, 1, 32),
    "resnet101": Network(44_549_160, 1000, 1, 32),
    "resnet152": Network(60_192_808, 1000, 1, 32),
    "resnext50_32x4d": Network(25_028_904, 1000, 1, 32),
    "resnext101_32x8d": Network(88_791_336, 1000, 1, 32),
    "wide_resnet50_2": Network(68_883_240, 1000, 1, 32),
    "wide_resnet101_2": Network(126_886_696, 1000, 1, 32),
    # resnet18 and resnet34 without the three projections: 172,032 weights and 1,792 parameters of
    # their normalisation.
    "plain18": Network(11_515_688, 1000, 1, 32),
    "plain34": Network(21_623_848, 1000, 1, 32),
    # timm.
    "resnet50d": Network(25_576_264, 1000, 1, 32),
    # Keras: trainable parameters of ResNet50.
    "resnet50_v1": Network(25_583_592, 1000, 1, 32),
    # He et al. 2015, Table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 M. The sum over the layers is 269,722
    # for three blocks per stage, plus 97,216 for each further block per stage.
    "resnet20": Network(269_722, 10, 1, 32),
    "resnet32": Network(464_154, 10, 1, 32),
    "resnet44": Network(658_586, 10, 1, 32),
    "resnet56": Network(853_018, 10, 1, 32),
    "resnet110": Network(1_727_962, 10, 1, 32),
    # timm.
    "convnext_tiny": Network(28_589_128, 1000, 32, 32),
    "convnext_small": Network(50_223_688, 1000, 32, 32),
    "convnext_base": Network(88_591_464, 1000, 32, 32),
    # timm, for 197 tokens, those of 224x224 pixels.
    "vit_tiny_patch16_224": Network(5_717_416, 1000, 16, 32),
    "vit_small_patch16_224": Network(22_050_664, 1000, 16, 32),
    "vit_base_patch16_224": Network(86_567_656, 1000, 16, 32),
    # timm. `size` is 64: with 32, the last windows have one pixel and their bias has no gradient.
    "swin_tiny_patch4_window7_224": Network(28_288_354, 1000, 4, 64),
    "swin_small_patch4_window7_224": Network(49_606_258, 1000, 4, 64),
    "swin_base_patch4_window7_224": Network(87_768_224, 1000, 4, 64),
    # timm.
    "resnetv2_50": Network(25_549_352, 1000, 1, 32),
    "resnetv2_101": Network(44_541_480, 1000, 1, 32),
    "resnetv2_152": Network(60_185_128, 1000, 1, 32),
    # Keras: trainable parameters of ResNet50V2.
    "resnetv2_50_keras": Network(25_568_360, 1000, 1, 32),
    # Zagoruyko & Komodakis 2016, Tables 4 and 5: 11.0, 36.5 and 8.9 M. The sums below are over the
    # 3x3 convolutions, the three shortcuts, the normalisation and the dense layer.
    # 10,783,152 + 165,888 + 7,200 + 5,130; 36,196,272 + 258,560 + 17,952 + 6,410;
    # 8,893,872 + 41,984 + 10,784 + 2,570.
    "wrn_16_8": Network(10_961_370, 10, 1, 8),
    "wrn_28_10": Network(36_479_194, 10, 1, 8),
    "wrn_40_4": Network(8_949_210, 10, 1, 8),
    # Chollet 2016, Table 3, and Keras.
    "xception": Network(22_855_952, 1000, 7, 32),
    # timm; the paper's Table 2 rounds to 5.3, 7.8, 9.2, 12, 19, 30, 43 and 66 M.
    "efficientnet_b0": Network(5_288_548, 1000, 1, 32),
    "efficientnet_b1": Network(7_794_184, 1000, 1, 32),
    "efficientnet_b2": Network(9_109_994, 1000, 1, 32),
    "efficientnet_b3": Network(12_233_232, 1000, 1, 32),
    "efficientnet_b4": Network(19_341_616, 1000, 1, 32),
    "efficientnet_b5": Network(30_389_784, 1000, 1, 32),
    "efficientnet_b6": Network(43_040_704, 1000, 1, 32),
    "efficientnet_b7": Network(66_347_960, 1000, 1, 32),
    # timm; lite's README rounds to 4.7, 5.4, 6.1, 8.2 and 13.0 M.
    "efficientnet_lite0": Network(4_652_008, 1000, 1, 32),
    "efficientnet_lite1": Network(5_416_680, 1000, 1, 32),
    "efficientnet_lite2": Network(6_092_072, 1000, 1, 32),
    "efficientnet_lite3": Network(8_197_096, 1000, 1, 32),
    "efficientnet_lite4": Network(13_006_568, 1000, 1, 32),
    # Equal to efficientnet_*: TensorFlow's padding and epsilon add no parameters.
    "tf_efficientnet_b0": Network(5_288_548, 1000, 1, 32),
    "tf_efficientnet_b1": Network(7_794_184, 1000, 1, 32),
    "tf_efficientnet_b2": Network(9_109_994, 1000, 1, 32),
    "tf_efficientnet_b3": Network(12_233_232, 1000, 1, 32),
    "tf_efficientnet_b4": Network(19_341_616, 1000, 1, 32),
    "tf_efficientnet_b5": Network(30_389_784, 1000, 1, 32),
    "tf_efficientnet_b6": Network(43_040_704, 1000, 1, 32),
    "tf_efficientnet_b7": Network(66_347_960, 1000, 1, 32),
    "tf_efficientnet_lite0": Network(4_652_008, 1000, 1, 32),
    "tf_efficientnet_lite1": Network(5_416_680, 1000, 1, 32),
    "tf_efficientnet_lite2": Network(6_092_072, 1000, 1, 32),
    "tf_efficientnet_lite3": Network(8_197_096, 1000, 1, 32),
    "tf_efficientnet_lite4": Network(13_006_568, 1000, 1, 32),
    # timm; the papers have no counts. The two released networks (legacy_seresnet50, senet154) need
    # 3x3 pixels: the max-pooling after the stem has no output for smaller images.
    "seresnet50": Network(28_088_024, 1000, 1, 32),
    "seresnext50_32x4d": Network(27_559_896, 1000, 1, 32),
    "legacy_seresnet50": Network(28_088_024, 1000, 3, 32),
    "senet154": Network(115_088_984, 1000, 3, 32),
    # torchvision's num_params and min_size.
    "densenet121": Network(7_978_856, 1000, 29, 32),
    "densenet161": Network(28_681_000, 1000, 29, 32),
    "densenet169": Network(14_149_480, 1000, 29, 32),
    "densenet201": Network(20_013_928, 1000, 29, 32),
    # timm.
    "cspresnet50": Network(21_616_168, 1000, 1, 32),
    "cspresnext50": Network(20_569_896, 1000, 1, 32),
    "cspdarknet53": Network(27_642_184, 1000, 1, 32),
    # timm, whose rounding of widths also gives the narrow variants. Table 6 of the paper: 0.5, 1.3,
    # 2.6 and 4.2 M.
    "mobilenetv1_025": Network(470_072, 1000, 1, 32),
    "mobilenetv1_050": Network(1_331_592, 1000, 1, 32),
    "mobilenetv1_075": Network(2_585_560, 1000, 1, 32),
    "mobilenetv1_100": Network(4_231_976, 1000, 1, 32),
    # timm.
    "mobilenetv2_035": Network(1_677_128, 1000, 1, 32),
    "mobilenetv2_050": Network(1_968_680, 1000, 1, 32),
    "mobilenetv2_075": Network(2_636_424, 1000, 1, 32),
    "mobilenetv2_100": Network(3_504_872, 1000, 1, 32),
    "mobilenetv2_140": Network(6_108_776, 1000, 1, 32),
    # timm.
    "mobilenetv3_large_075": Network(3_993_528, 1000, 1, 32),
    "mobilenetv3_large_100": Network(5_483_032, 1000, 1, 32),
    "mobilenetv3_small_075": Network(2_041_872, 1000, 1, 32),
    "mobilenetv3_small_100": Network(2_542_856, 1000, 1, 32),
    # torchvision's documentation.
    "shufflenet_v2_x0_5": Network(1_366_792, 1000, 1, 32),
    "shufflenet_v2_x1_0": Network(2_278_604, 1000, 1, 32),
    "shufflenet_v2_x1_5": Network(3_503_624, 1000, 1, 32),
    "shufflenet_v2_x2_0": Network(7_393_996, 1000, 1, 32),
}
