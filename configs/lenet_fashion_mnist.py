"""LeNet on Fashion-MNIST.

Source: LeCun et al. 1998 (doi:10.1109/5.726791) for the network; the recipe is ours.
Command: python -m cnn_jax.main --config=configs/lenet_fashion_mnist.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.get_config()
    config.model.name = "lenet"
    config.model.activation = "relu"
    config.data.source = "idx"
    config.data.name = "fashion_mnist"
    config.data.train_split = "train[:55000]"
    config.data.validation_split = "train[55000:]"
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.train.epochs = 20.0
    return base.finish(config, variant)
