"""LeNet on scikit-learn's handwritten digits: a first run, about a minute on a laptop.

Source: LeCun et al. 1998 (doi:10.1109/5.726791) for the network; the recipe is ours.
Command: python -m cnn_jax.main --config=configs/quickstart.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.get_config()
    config.model.name = "lenet"
    config.data.source = "digits"
    config.data.resize = "bilinear"
    config.data.crop_padding = 4
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 1e-3
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.train.batch_size = 64
    config.train.epochs = 150.0
    config.eval.every_epochs = 5.0
    config.checkpoint.every_steps = 100
    config.log.every_steps = 50
    return base.finish(config, variant)
