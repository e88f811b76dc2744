"""Textbook convolutional network on Fashion-MNIST.

Source: Géron 2022, 'Hands-On Machine Learning', 3rd edition, chapter 14: over 92 % test accuracy.
The recipe is ours: Muon with a cosine schedule (a twentieth of its rate for the first and the last
kernel and for the biases), flips, shifts, label smoothing, dropout 0.3 (the book has 0.5), and an
average of the parameters.
Command: python -m cnn_jax.main --config=configs/fashion_cnn.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base

# The first pattern that matches counts. Adam trains the biases and conv1, which has one input.
RATE_FACTORS = (("^(conv1|output)/kernel$", 0.05), ("kernel$", 1.0), (".*", 0.05))


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.fashion_mnist(image_size=28)
    config.model.name = "fashion_cnn"
    config.model.dropout_rate = 0.3
    config.model.dtype = "bfloat16"
    config.data.flip = True
    config.data.crop_padding = 2
    config.optim.name = "muon"
    config.optim.learning_rate = 0.03
    config.optim.momentum = 0.95
    config.optim.nesterov = True
    config.optim.weight_decay = 0.05
    config.optim.rate_factors = RATE_FACTORS
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 0.5
    config.loss.label_smoothing = 0.1
    config.ema.decay = 0.995
    config.ema.warmup = True
    config.eval.weights = "average"
    config.train.batch_size = 256
    config.train.epochs = 30.0
    return base.finish(config, variant)
