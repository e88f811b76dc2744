"""MobileNet v2 on ImageNet.

Source: Sandler et al. 2018 (arXiv:1801.04381), section 6.1: RMSProp with decay and momentum 0.9,
rate 0.045 times 0.98 after every epoch, weight decay 4e-5, batches of 96 on each of 16 machines.
The machines trained asynchronously, so one update there, as here, is computed from 96 images.
Epsilon is TF-slim's default. As in TF-slim's code, depthwise kernels have no weight decay. The
length is ours. Crops are those of TF-slim's `inception_v2` preprocessing, which the authors' README
names: 5 to 100 % of the area, ratio 3/4 to 4/3. For evaluation, it stretches the central 87.5 % of
both sides; here the crop is a square of 87.5 % of the shorter side. Its random brightness and
saturation are missing here.
Command: python -m cnn_jax.main --config=configs/mobilenetv2.py --config.data.directory=DIR
Result: not yet run; published weights have 71.3 % top-1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "mobilenetv2_100"
    config.data.crop_scale = (0.05, 1.0)
    config.optim.name = "rmsprop"
    config.optim.learning_rate = 0.045
    config.optim.momentum = 0.9
    config.optim.rms_decay = 0.9
    config.optim.eps = 1.0
    config.optim.weight_decay = 4e-5
    config.optim.decay = (r"(?<!depthwise/conv/)\bkernel$",)
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 1.0
    config.optim.schedule.decay_factor = 0.98
    config.train.batch_size = 96
    config.train.epochs = 200.0
    return base.finish(config, variant, smoke_image_size=32)
