"""MobileNet v2 on ImageNet.

Source: Sandler et al. 2018 (arXiv:1801.04381), section 6.1, and the authors' README
(`research/slim/nets/mobilenet` in TensorFlow's `models` repository). Its command reaches 72.0 %
after 700,000 steps on 8 GPUs. Batches have 8 x 96 images, and the rate is 0.045 for every 96
images, times 0.98 every 2.5 epochs. Label smoothing is 0.1, and the average has a decay of 0.9999.
The paper has a decay after every epoch and asynchronous updates of 96 images. TF-slim's defaults
are RMSProp with decay and momentum 0.9 and epsilon 1, and weight decay 4e-5, but none on depthwise
kernels. Its dropout is 0.2. Its batch normalisation keeps 0.997 of the statistics and has epsilon
1e-3, and its padding is TensorFlow's. Crops and colours are those of its `inception_v2`
preprocessing: 5 to 100 % of the area, ratio 0.75 to 1.33, brightness and saturation in random
order.

Departures: TensorFlow draws the crops by another rule, and refuses those below 10 % of the area
(`docs/recipes.md`). It scales without antialiasing. The code adds to the brightness; here it is
multiplied. It multiplies the saturation of HSV; here colours are mixed with their grey, as in
torchvision. It changes the saturation first in three of four images; here in half of them. For
evaluation, it stretches the central 87.5 % of both sides; here the crop is a square of 87.5 % of
the shorter side.
Command: python -m cnn_jax.main --config=configs/mobilenetv2.py --config.data.directory=DIR
Result: not yet run; the authors' README quotes 72.0 % top-1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "mobilenetv2_100"
    config.model.dropout_rate = 0.2
    config.model.momentum = 0.997
    config.model.epsilon = 1e-3
    config.model.padding = "SAME"
    config.data.crop_scale = (0.05, 1.0)
    config.data.crop_ratio = (0.75, 1.33)
    config.data.augment = (("colour_jitter", {"brightness": 32 / 255, "saturation": 0.5}),)
    config.optim.name = "rmsprop_tf"
    config.optim.learning_rate = 0.045
    config.optim.reference_batch_size = 96
    config.optim.momentum = 0.9
    config.optim.rms_decay = 0.9
    config.optim.eps = 1.0
    config.optim.weight_decay = 4e-5
    config.optim.decay = (r"(?<!depthwise/conv/)\bkernel$",)
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 2.5
    config.optim.schedule.decay_factor = 0.98
    config.optim.schedule.staircase = True
    config.loss.label_smoothing = 0.1
    config.train.batch_size = 768
    config.train.epochs = 420.0
    config.ema.decay = 0.9999
    config.ema.warmup = True
    config.eval.weights = "average"
    return base.finish(config, variant, smoke_image_size=32)
