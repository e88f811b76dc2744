"""SqueezeNet 1.1 on ImageNet.

Source: the solver of SqueezeNet 1.1 in the authors' repository (github.com/forresti/SqueezeNet):
rate 0.04 that decays linearly, momentum 0.9, weight decay 2e-4, 170,000 batches of 512, which are
68 epochs. Crops are those of the network file: 227x227 of 256x256 pixels at random, and the centre
for evaluation. The file gives biases the same weight decay as kernels. The file has no flips and no
further augmentation. Caffe's images are stretched to 256x256; here the shorter side is scaled to
256, bilinearly.
Command: python -m cnn_jax.main --config=configs/squeezenet1_1.py --config.data.directory=DIR
Result: not yet run; torchvision's weights give 58.2 % top-1, 80.6 % top-5 for the central crop.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=227)
    config.model.name = "squeezenet1_1"
    config.data.train_crop = "random"
    config.data.shorter_side = 256
    config.data.flip = False
    config.optim.learning_rate = 0.04
    config.optim.weight_decay = 2e-4
    config.optim.decay = (".*",)
    config.optim.schedule.name = "polynomial"
    config.train.batch_size = 512
    config.train.epochs = 68.0
    return base.finish(config, variant, smoke_image_size=33)
