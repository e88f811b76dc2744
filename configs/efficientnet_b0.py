"""EfficientNet-B0, padded and normalised as in TensorFlow, on ImageNet.

Source: Tan & Le 2019 (arXiv:1905.11946), section 5.2, and the authors' code
(`models/official/efficientnet` in TensorFlow's `tpu` repository). TensorFlow's RMSProp has decay
and momentum 0.9, epsilon 1e-3 and a rate of 0.016 for every 256 images of a batch, here 2048. The
rate warms up over 5 epochs and is multiplied by 0.97 every 2.4 epochs, counted from the start of
the run, for 350 epochs. Weight decay 1e-5 is on everything but batch normalisation. Label smoothing
is 0.1, dropout and stochastic depth 0.2; AutoAugment has the policy v0. The average of parameters
and statistics has a decay of 0.9999, less at the start of the run; there, the code is one update
ahead. Crops are those of the same code: 8 to 100 % of the area, ratio 3/4 to 4/3, bicubic.
Evaluation crops the central 224/(224 + 32) of the shorter side.

Departures: TensorFlow draws the crops by another rule, and refuses those below 10 % of the area
(`docs/recipes.md`). It scales without antialiasing.
Command: python -m cnn_jax.main --config=configs/efficientnet_b0.py --config.data.directory=DIR
Result: not yet run; the authors' page quotes 77.1 % top-1 with AutoAugment, 76.7 % without.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "tf_efficientnet_b0"
    config.model.momentum = 0.99
    config.data.resize = "bicubic"
    config.data.augment = (("auto_augment_tf", {}),)
    config.optim.name = "rmsprop_tf"
    config.optim.learning_rate = 0.016
    config.optim.reference_batch_size = 256
    config.optim.momentum = 0.9
    config.optim.rms_decay = 0.9
    config.optim.eps = 1e-3
    config.optim.weight_decay = 1e-5
    config.optim.decay = (r"\bkernel$", r"(?<!\bbn/)\bbias$")
    config.optim.schedule.name = "exponential"
    config.optim.schedule.warmup_epochs = 5.0
    config.optim.schedule.warmup_first_step = 0
    config.optim.schedule.decay_from = "start"
    config.optim.schedule.decay_epochs = 2.4
    config.optim.schedule.decay_factor = 0.97
    config.optim.schedule.staircase = True
    config.train.batch_size = 2048
    config.train.epochs = 350.0
    config.loss.label_smoothing = 0.1
    config.ema.decay = 0.9999
    config.ema.warmup = True
    config.eval.weights = "average"
    return base.finish(config, variant, smoke_image_size=32)
