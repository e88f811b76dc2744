"""VGG-16 on ImageNet.

Source: Simonyan & Zisserman 2014 (arXiv:1409.1556), section 3.1: batches of 256, momentum 0.9,
weight decay 5e-4, rate 0.01, 74 epochs. The rate is divided by 10 when the validation accuracy
stops rising, three times in all. The paper does not say after how many epochs; here, 5 epochs
without improvement are tolerated. Crops are those of the paper's training scale S = 256: the
shorter side is scaled to 256 pixels, and 224x224 pixels are cut at random. Evaluation crops the
centre. The interpolation is not stated by the source; bilinear is torchvision's default. The shifts
of colours are AlexNet's, as in the paper. Random scales S are missing here. So is the paper's dense
evaluation: the dense layers take one input size, so --views=dense refuses this network. The second
command averages over ten crops; the paper's multi-crop evaluation has 50 crops at each of three
scales.
Command: python -m cnn_jax.main --config=configs/vgg16.py --config.data.directory=DIR --workdir=RUN
Command: python -m cnn_jax.evaluate --workdir=RUN --views=ten_crops
Result: not yet run; torchvision's weights give 71.6 % top-1, 90.4 % top-5 for the central crop.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "vgg16"
    config.data.train_crop = "random"
    config.data.shorter_side = 256
    config.data.augment = (("pca_colour", {"std": 0.1}),)
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "plateau"
    config.optim.schedule.patience = 5
    config.optim.schedule.end_factor = 1e-3
    config.train.batch_size = 256
    config.train.epochs = 74.0
    config.eval.batch_size = 128  # the first two feature maps take 13 MB per image each
    return base.finish(config, variant, smoke_image_size=32)
