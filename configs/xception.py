"""Xception on ImageNet.

Source: Chollet 2016 (arXiv:1610.02357), section 4.3: SGD with momentum, rate 0.045 times 0.94 every
two epochs, weight decay 1e-5, dropout 0.5, evaluation of an average of the parameters. The batch
size and the length are a guess; the paper says only that training took 60 GPUs. The paper states no
crops and no decay of the average either; they are those of its baseline, Inception v3: 5 to 100 %
of the area, ratio 3/4 to 4/3, and 0.9999.
Command: python -m cnn_jax.main --config=configs/xception.py --config.data.directory=DIR
Result: not yet run; the paper's Table 1 has 79.0 % top-1, 94.5 % top-5.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=299)
    config.model.name = "xception"
    config.data.crop_scale = (0.05, 1.0)
    config.optim.learning_rate = 0.045
    config.optim.weight_decay = 1e-5
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 2.0
    config.optim.schedule.decay_factor = 0.94
    config.optim.schedule.staircase = True
    config.train.batch_size = 256
    config.eval.batch_size = 128
    config.train.epochs = 100.0
    config.ema.decay = 0.9999
    config.ema.warmup = True
    config.eval.weights = "average"
    return base.finish(config, variant, smoke_image_size=71)
