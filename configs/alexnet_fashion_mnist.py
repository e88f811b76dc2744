"""AlexNet on Fashion-MNIST, enlarged to 96x96 pixels.

Source: Zhang et al. 2023, 'Dive into Deep Learning', section 8.1: batches of 128, rate 0.01, 10
epochs at 224x224, about 88 %. Here with fewer pixels, momentum and a cosine schedule, so that it
takes two cores less than an hour and learns as much in it as it can.
Command: python -m cnn_jax.main --config=configs/alexnet_fashion_mnist.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.fashion_mnist(image_size=96)
    config.model.name = "alexnet_d2l"
    config.data.resize = "bilinear"
    config.optim.learning_rate = 0.01
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 0.5
    config.train.batch_size = 128
    config.train.epochs = 10.0
    return base.finish(config, variant)
