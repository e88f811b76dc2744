"""Logistic regression on Fashion-MNIST: the baseline for every network.

Source: none; softmax of one dense layer on the pixels. The recipe is ours.
Command: python -m cnn_jax.main --config=configs/logistic_regression_fashion_mnist.py
Result: test top-1 84.54 %, top-5 99.60 %, loss 0.4356 with seed 0, the final parameters, in 16 s
of processor time;
params_sha256 b2195128dd20a6676606dd721cc1a41d2397d60e34647e4bffde1972dc33ed14.
Measured with cnn_jax 0.2.0 (commit a900f5f) on 2 cores of an AMD EPYC (Zen 4), Python 3.11.7, JAX
0.10.2, Flax 0.12.8. The digest holds for the same versions and machine.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.fashion_mnist(image_size=28)
    config.model.name = "logistic_regression"
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.optim.schedule.warmup_first_step = 0  # As in the run that was measured.
    config.train.epochs = 20.0
    config.train.steps_per_call = 8
    return base.finish(config, variant)
