"""torchvision's AlexNet on ImageNet.

Source: torchvision's references/classification: rate 0.01, divided by 10 after epochs 30 and 60 of
90, weight decay 1e-4, batches of 8 x 32 images. Its crops of random size are missing here.
Command: python -m cnn_jax.main --config=configs/alexnet_owt.py --config.data.directory=DIR
Result: not yet run; torchvision's weights give 56.5 % top-1, 79.1 % top-5 for the central crop.
Limit: ImageNet cannot run in full yet. A data set must fit into the memory of each device, at most
8 GiB; use the variant `:smoke` or a small slice until streaming arrives with a later change.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "alexnet_owt"
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0)
    config.train.batch_size = 256
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=63)
