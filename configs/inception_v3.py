"""Inception v3 on ImageNet.

Source: Szegedy et al. 2016 (arXiv:1512.00567), sections 7 and 8: RMSProp, rate 0.045 times 0.94
every two epochs, gradients clipped at 2, label smoothing 0.1, batches of 32 (on each of 50
replicas), 100 epochs. Momentum, weight decay and the weight of the auxiliary loss are from the
authors' TensorFlow code, and so are the crops: 5 to 100 % of the area, ratio 3/4 to 4/3. For
evaluation, the code stretches the central 87.5 % of both sides; here the crop is a square of 87.5 %
of the shorter side. The code varies the interpolation; here it is bilinear. Random colours and the
moving average of the parameters are missing here.
Command: python -m cnn_jax.main --config=configs/inception_v3.py --config.data.directory=DIR
Result: not yet run; the released weights have 78.0 % top-1, 93.9 % top-5 (TF-slim's table).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=299)
    config.model.name = "inception_v3"
    config.data.crop_scale = (0.05, 1.0)
    config.optim.name = "rmsprop"
    config.optim.learning_rate = 0.045
    config.optim.rms_decay = 0.9
    config.optim.eps = 1.0
    config.optim.weight_decay = 4e-5
    config.optim.clip_norm = 2.0
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 2.0
    config.optim.schedule.decay_factor = 0.94
    config.train.batch_size = 32
    config.eval.batch_size = 128
    config.train.epochs = 100.0
    config.loss.label_smoothing = 0.1
    config.loss.auxiliary_weight = 0.4
    return base.finish(config, variant)
