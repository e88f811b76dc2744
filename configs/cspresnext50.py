"""CSPResNeXt-50 on ImageNet.

Source: Wang et al. 2019 (arXiv:1911.11929), section 4.1, as far as the authors' csresnext50.cfg
agrees: batches of 128, momentum 0.9, rate 0.1, images of 256 pixels, weight decay 5e-4 and 800,000
steps (0.005 and 8,000,000 in the paper). Their rate falls with the fourth power of what is left of
the run; the exponential one here is close to it until the last quarter. Crops of random size and
aspect ratio, rotation, random colours and the first 1,000 steps' rising rate are missing.
Command: python -m cnn_jax.main --config=configs/cspresnext50.py --config.data.directory=DIR
Result: not yet run; the authors' weights give 77.9 % top-1, 94.0 % top-5 (their table).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.imagenet(image_size=256)
    config.model.name = "cspresnext50"
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 32.0
    config.optim.schedule.decay_factor = 0.1
    config.train.batch_size = 128
    config.train.epochs = 80.0
    return base.finish(config, variant)
