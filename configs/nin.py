"""Network in Network on ImageNet.

Source: Lin et al. 2013 (arXiv:1312.4400) and the authors' Caffe solver: batches of 64, rate 0.01,
divided by 10 after every 200,000 of 450,000 steps (about 10 of 22 epochs), weight decay 5e-4.
Command: python -m cnn_jax.main --config=configs/nin.py --config.data.directory=DIR
Result: not yet run; the authors' model zoo page quotes 59.4 % top-1.
Limit: ImageNet cannot run in full yet. A data set must fit into the memory of each device, at most
8 GiB; use the variant `:smoke` or a small slice until streaming arrives with a later change.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "nin"
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (10.0, 20.0)
    config.train.batch_size = 64
    config.train.epochs = 22.0
    return base.finish(config, variant, smoke_image_size=67)
