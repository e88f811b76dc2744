"""Network in Network, as for CIFAR-10, on Fashion-MNIST at its own 28x28 pixels.

Source: Lin et al. 2013 (arXiv:1312.4400) for the network; the recipe is ours.
Command: python -m cnn_jax.main --config=configs/nin_fashion_mnist.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.fashion_mnist(image_size=28)
    config.model.name = "nin_cifar"
    config.data.flip = True
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 0.5
    config.train.epochs = 5.0
    return base.finish(config, variant)
