"""DenseNet-121 on ImageNet.

Source: Huang et al. 2016 (arXiv:1608.06993), section 4.2: batches of 256, Nesterov momentum 0.9,
weight decay 1e-4, rate 0.1, divided by 10 after epochs 30 and 60 of 90. Crops and colours are those
of fb.resnet.torch, on which the authors' code builds; see `resnetv2_50.py`. As in that code, every
parameter has weight decay. Evaluation crops the central 224x224 pixels at a shorter side of 256.
Command: python -m cnn_jax.main --config=configs/densenet121.py --config.data.directory=DIR
Result: not yet run; the paper has 75.0 % top-1, 92.3 % top-5 for the central crop (Table 3).
"""

from ml_collections import ConfigDict

from configs import base, resnetv2_50


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "densenet121"
    config.data.resize = "bicubic"
    config.data.augment = resnetv2_50.AUGMENT
    config.optim.learning_rate = 0.1
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.optim.decay = (".*",)
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0)
    config.train.batch_size = 256
    config.train.epochs = 90.0
    return base.finish(config, variant)
