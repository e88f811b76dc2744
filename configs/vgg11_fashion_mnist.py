"""VGG-11 with a quarter of its channels on Fashion-MNIST, padded to 32x32 pixels.

Source: Zhang et al. 2023, 'Dive into Deep Learning', section 8.2, for the network; the recipe is
ours.
Command: python -m cnn_jax.main --config=configs/vgg11_fashion_mnist.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.fashion_mnist(image_size=32)
    config.model.name = "vgg11"
    config.model.widths = (16, 32, 64, 128, 128)
    config.data.flip = True
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.train.batch_size = 128
    config.train.epochs = 10.0
    return base.finish(config, variant)
