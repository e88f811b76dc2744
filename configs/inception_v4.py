"""Inception v4 on ImageNet.

Source: Szegedy et al. 2016 (arXiv:1602.07261), section 4: RMSProp with decay 0.9 and epsilon 1,
rate 0.045 times 0.94 every two epochs, evaluation of an average of the parameters. The paper says
nothing else; batch size, momentum, weight decay, label smoothing, length, the average's decay,
crops (5 to 100 % of the area, ratio 3/4 to 4/3) and colours are those of `inception_v3.py`, with
its departures.
Command: python -m cnn_jax.main --config=configs/inception_v4.py --config.data.directory=DIR
Result: not yet run; the released weights have 80.2 % top-1, 95.2 % top-5 (TF-slim's table).
"""

from ml_collections import ConfigDict

from configs import base, inception_v3


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=299)
    config.model.name = "inception_v4"
    config.data.crop_scale = (0.05, 1.0)
    config.data.augment = inception_v3.AUGMENT
    config.optim.name = "rmsprop_tf"
    config.optim.learning_rate = 0.045
    config.optim.rms_decay = 0.9
    config.optim.eps = 1.0
    config.optim.weight_decay = 4e-5
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 2.0
    config.optim.schedule.decay_factor = 0.94
    config.optim.schedule.staircase = True
    config.train.batch_size = 32
    config.eval.batch_size = 128
    config.train.epochs = 100.0
    config.loss.label_smoothing = 0.1
    config.ema.decay = 0.9999
    config.ema.warmup = True
    config.eval.weights = "average"
    return base.finish(config, variant, smoke_image_size=75)
