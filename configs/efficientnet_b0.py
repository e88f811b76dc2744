"""EfficientNet-B0, padded and normalised as in TensorFlow, on ImageNet.

Source: Tan & Le 2019 (arXiv:1905.11946), section 5.2: RMSProp with decay and momentum 0.9, rate
0.256 times 0.97 every 2.4 epochs, weight decay 1e-5, dropout and stochastic depth 0.2. Warm-up,
length and label smoothing are from the authors' code (`models/official/efficientnet` in
TensorFlow's `tpu` repository). Its rate is for batches of 4096; batches of 2048 take half of it.
Weight decay is on everything but batch normalisation, and the first rate of the warm-up is 0, as in
that code. Its epsilon of 1e-3 is inside the square root, which equals 0.03 outside, as here. Crops
are those of the same code: 8 to 100 % of the area, ratio 3/4 to 4/3, bicubic. Evaluation crops the
central 224/(224 + 32) of the shorter side. AutoAugment and the moving average of the parameters are
missing here. The rate decays continuously, not in steps.
Command: python -m cnn_jax.main --config=configs/efficientnet_b0.py --config.data.directory=DIR
Result: not yet run; published are 76.5 to 78.6 % top-1, depending on the recipe.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "tf_efficientnet_b0"
    config.model.momentum = 0.99
    config.data.resize = "bicubic"
    config.optim.name = "rmsprop"
    config.optim.learning_rate = 0.128
    config.optim.momentum = 0.9
    config.optim.rms_decay = 0.9
    config.optim.eps = 0.03
    config.optim.weight_decay = 1e-5
    config.optim.decay = (r"\bkernel$", r"(?<!\bbn/)\bbias$")
    config.optim.schedule.name = "exponential"
    config.optim.schedule.warmup_epochs = 5.0
    config.optim.schedule.warmup_first_step = 0
    config.optim.schedule.decay_epochs = 2.4
    config.optim.schedule.decay_factor = 0.97
    config.train.batch_size = 2048
    config.train.epochs = 350.0
    config.loss.label_smoothing = 0.1
    return base.finish(config, variant, smoke_image_size=32)
