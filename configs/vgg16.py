"""VGG-16 on ImageNet.

Source: Simonyan & Zisserman 2014 (arXiv:1409.1556), section 3.1: batches of 256, momentum 0.9,
weight decay 5e-4, rate 0.01, 74 epochs. The paper divides the rate by 10 three times, whenever the
validation accuracy stops rising; this config divides it after epochs 30, 50 and 65. Crops from
images of random size and random colours are missing here.
Command: python -m cnn_jax.main --config=configs/vgg16.py --config.data.directory=DIR
Result: not yet run; torchvision's weights give 71.6 % top-1, 90.4 % top-5 for the central crop.
Limit: ImageNet cannot run in full yet. A data set must fit into the memory of each device, at most
8 GiB; use the variant `:smoke` or a small slice until streaming arrives with a later change.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "vgg16"
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 50.0, 65.0)
    config.train.batch_size = 256
    config.train.epochs = 74.0
    config.eval.batch_size = 128  # the first two feature maps take 13 MB per image each
    return base.finish(config, variant, smoke_image_size=32)
