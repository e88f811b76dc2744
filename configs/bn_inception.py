"""Inception v2, which has batch normalisation, on ImageNet: the paper's BN-x5.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), section 4.2: batches of 32, rate 0.0075, no
dropout. The rate decays six times as fast as GoogLeNet's (4 % every 8 epochs). The weight decay is
a fifth of GoogLeNet's (2e-4 in Caffe). The 53 epochs are 2.1 million steps, after which the paper
reaches 72.2 %. Crops are those of GoogLeNet, the paper's base: 8 to 100 % of the area, ratio 3/4 to
4/3. The interpolation, bilinear, and the evaluation crop are torchvision's defaults. The reduced
photometric distortions are missing here.
Command: python -m cnn_jax.main --config=configs/bn_inception.py --config.data.directory=DIR
Result: not yet run; the paper's best top-1 is 73.0 % (Fig. 3).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "bn_inception"
    config.optim.learning_rate = 0.0075
    config.optim.weight_decay = 4e-5
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 8 / 6
    config.optim.schedule.decay_factor = 0.96
    config.train.batch_size = 32
    config.train.epochs = 53.0
    return base.finish(config, variant, smoke_image_size=32)
