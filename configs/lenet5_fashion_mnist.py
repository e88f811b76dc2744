"""LeNet-5 of 1998 on Fashion-MNIST: sparse C3, trainable subsampling, distances to codes.

Source: LeCun et al. 1998 (doi:10.1109/5.726791) for the network, its initial weights and its loss;
the optimizer is ours, where the paper has a stochastic Levenberg-Marquardt method.
Command: python -m cnn_jax.main --config=configs/lenet5_fashion_mnist.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.fashion_mnist()
    config.model.name = "lenet5"
    config.optim.learning_rate = 0.002
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.train.loss = "distance"
    config.train.epochs = 20.0
    config.train.steps_per_call = 8
    return base.finish(config, variant)
