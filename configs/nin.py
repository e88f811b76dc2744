"""Network in Network on ImageNet.

Source: Lin et al. 2013 (arXiv:1312.4400) and the authors' Caffe solver: batches of 64, rate 0.01,
divided by 10 after every 200,000 of 450,000 steps (about 10 of 22 epochs), weight decay 5e-4. Crops
are those of its network file: 224x224 of 256x256 pixels at random, and the centre for evaluation.
Caffe's images are stretched to 256x256; here the shorter side is scaled to 256, bilinearly. The
file has no further augmentation than flips.
Command: python -m cnn_jax.main --config=configs/nin.py --config.data.directory=DIR
Result: not yet run; the authors' model zoo page quotes 59.4 % top-1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "nin"
    config.data.train_crop = "random"
    config.data.shorter_side = 256
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (10.0, 20.0)
    config.train.batch_size = 64
    config.train.epochs = 22.0
    return base.finish(config, variant, smoke_image_size=67)
