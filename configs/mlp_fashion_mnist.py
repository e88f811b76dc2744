"""A multilayer perceptron on Fashion-MNIST: what convolution must beat.

Source: Géron 2022, 'Hands-On Machine Learning', 3rd edition, chapter 10: hidden layers of 300 and
100 units; the recipe is ours.
Command: python -m cnn_jax.main --config=configs/mlp_fashion_mnist.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.get_config()
    config.model.name = "mlp"
    config.model.widths = (300, 100)
    config.data.source = "idx"
    config.data.name = "fashion_mnist"
    config.data.train_split = "train[:55000]"
    config.data.validation_split = "train[55000:]"
    config.data.image_size = 28
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.train.epochs = 20.0
    return base.finish(config, variant)
