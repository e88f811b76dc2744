"""Every registered network: what the contract tests in test_models.py hold it to."""

from typing import NamedTuple


class Network(NamedTuple):
    """What is known of a network.

    Attributes:
      parameters: trainable, for images of `models.input_shape(name)`.
      num_classes: for so many classes.
      smallest: the smallest height and width that it takes; one pixel less is an error.
      size: height and width of the images for the tests that compute, small to be quick.
    """

    parameters: int
    num_classes: int
    smallest: int
    size: int

    @property
    def is_large(self) -> bool:
        """Whether compiling and running it takes a while."""
        return self.parameters > 2_000_000


NETWORKS = {
    # 28 * 28 * 10 + 10.
    "logistic_regression": Network(7_850, 10, 1, 28),
    # 28 * 28 * 256 + 256 + 256 * 10 + 10.
    "mlp": Network(203_530, 10, 1, 28),
    # LeCun et al. 1998, Fig. 2, with dense C3 and output: 156 + 2,416 + 48,120 + 10,164 + 850.
    "lenet": Network(61_706, 10, 16, 32),
    # The same paper, section II.B: 156 + 12 + 1,516 + 32 + 48,120 + 10,164.
    "lenet5": Network(60_000, 10, 16, 32),
    # Lin et al. 2013 and the authors' Caffe model: the sum over the layers of C'(C K^2 + 1).
    "nin": Network(7_595_176, 1000, 55, 67),
    "nin_cifar": Network(966_986, 10, 6, 32),
    # Géron 2022, chapter 14, model.summary() of the book's notebook.
    "fashion_cnn": Network(1_413_834, 10, 8, 28),
    # cuda-convnet: 2,432 + 25,632 + 51,264 of the convolutions, + 65,600 + 650 or + 10,250.
    "cuda_convnet_quick": Network(145_578, 10, 8, 32),
    "cuda_convnet_18pct": Network(89_578, 10, 8, 32),
    # Krizhevsky et al. 2012, Fig. 2: the sum over the layers of C'(C K^2 / groups + 1).
    "alexnet": Network(60_965_224, 1000, 67, 67),
    "alexnet_caffe": Network(60_965_224, 1000, 67, 67),
    "caffenet": Network(60_965_224, 1000, 67, 67),
    # The same with 256 x 48 x 25 + 384 x 192 x 9 + 256 x 192 x 9 more weights.
    "alexnet_single": Network(62_378_344, 1000, 67, 67),
    # torchvision's documentation, as are its smallest images.
    "alexnet_owt": Network(61_100_840, 1000, 63, 63),
    # Dive into Deep Learning, section 8.1: 3,723,968 of the convolutions, 26,218,496, 16,781,312
    # and 40,970 of the dense layers.
    "alexnet_d2l": Network(46_764_746, 10, 65, 65),
    # The ONNX model zoo's zfnet512.
    "zfnet512": Network(87_250_536, 1000, 49, 49),
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
    # Szegedy et al. 2014, Table 1: 6,998,552 as the sum over the layers of C'(C K^2 + 1), and the
    # heads' 3,188,840 and 3,190,888.
    "googlenet": Network(13_378_280, 1000, 47, 47),
    # torchvision's num_params and min_size, with the heads' 3,188,968 and 3,191,016.
    "googlenet_bn": Network(13_004_888, 1000, 15, 32),
    # The ONNX model zoo's inception-v2: 10,150,080 of the 69 convolutions, 2 * 9,952 of their
    # normalisation, 1,025,000 of the classifier.
    "bn_inception": Network(11_194_984, 1000, 7, 32),
    # torchvision's num_params, the head's 3,326,696 among them, which take 299x299 pixels.
    "inception_v3": Network(27_161_264, 1000, 299, 299),
    # timm.
    "inception_v4": Network(42_679_816, 1000, 75, 75),
    "inception_resnet_v2": Network(55_843_464, 1000, 75, 75),
}
