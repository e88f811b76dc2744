"""AlexNet on ImageNet.

Source: Krizhevsky et al. 2012 (doi:10.1145/3065386), sections 4 and 5: momentum 0.9, weight decay
5e-4 within the gradient, rate 0.01, a tenth of it three times in about 90 epochs, whenever the
validation error no longer fell; here after 30, 60 and 80. Shifts go as far as those of 227 out of
256 pixels, but into black; the colour augmentation and the average over ten crops are missing here,
and biases do not decay.
Command: python -m cnn_jax.main --config=configs/alexnet.py --config.data.directory=DIR
Result: not yet run; the paper's Table 2 gives 59.3 % top-1, 81.8 % top-5 for one network.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.imagenet(image_size=227)
    config.model.name = "alexnet"
    config.data.crop_padding = 14
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0, 80.0)
    config.train.batch_size = 128
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=67)
