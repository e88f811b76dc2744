"""LeNet on Fashion-MNIST with a tuned recipe.

Source: LeCun et al. 1998 (doi:10.1109/5.726791) for the network. The recipe is the best of six by
validation accuracy in `experiments/recipes/lenet.py`: Nesterov momentum, flips, random erasing,
label smoothing, and an average of the parameters. `lenet_fashion_mnist` has the plain recipe.
Command: python -m cnn_jax.main --config=configs/lenet_fashion_mnist_tuned.py
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.fashion_mnist()
    config.model.name = "lenet"
    config.model.activation = "relu"
    config.data.flip = True
    config.data.augment = (("random_erasing", {"probability": 0.25}),)
    config.optim.learning_rate = 0.1
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.loss.label_smoothing = 0.1
    config.ema.decay = 0.999
    config.ema.warmup = True
    config.eval.weights = "average"
    config.train.epochs = 40.0
    config.train.steps_per_call = 8
    return base.finish(config, variant)
