"""SE-ResNet-50 on ImageNet.

Source: Hu et al. 2017 (arXiv:1709.01507), section 5.1: batches of 1024, momentum 0.9, rate 0.6,
divided by 10 every 30 epochs, 100 epochs. The paper states no weight decay; this is ResNet's. Crops
of random scale and aspect ratio are missing here.
Command: python -m cnn_jax.main --config=configs/seresnet50.py --config.data.directory=DIR
Result: not yet run; the authors' weights, those of legacy_seresnet50, give 77.6 % top-1, 93.6 %
top-5 for the central crop (their README).
Limit: ImageNet cannot run in full yet. A data set must fit into the memory of each device, at most
8 GiB; use the variant `:smoke` or a small slice until streaming arrives with a later change.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "seresnet50"
    config.optim.learning_rate = 0.6
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0, 90.0)
    config.train.batch_size = 1024
    config.train.epochs = 100.0
    return base.finish(config, variant)
