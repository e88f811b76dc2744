"""Inception v3 on ImageNet.

Source: Szegedy et al. 2016 (arXiv:1512.00567), sections 7 and 8. RMSProp has an epsilon of 1 and a
rate of 0.045 times 0.94 every two epochs, of 100. Gradients are clipped at 2, label smoothing is
0.1, and batches have 32 images (on each of 50 replicas). An average of the parameters is evaluated.
Momentum, weight decay, dropout 0.2, the weight of the auxiliary loss and the average's decay of
0.9999 are from the authors' TensorFlow code (`research/inception` in the `models` repository). So
are crops and colours: 5 to 100 % of the area, ratio 0.75 to 1.33, brightness, saturation, hue and
contrast. The rate falls in steps, as there.

Departures: TensorFlow draws the crops by another rule (`docs/recipes.md`). The code refuses crops
that show less than 10 % of every annotated object; here there are no annotations. It has two fixed
orders of the colours, here the order is random. It adds to the brightness, here it is multiplied.
It multiplies the saturation of HSV, and the contrast about the mean of each channel; here both are
torchvision's. It varies the interpolation, here it is bilinear and antialiased. For evaluation,
it stretches the central 87.5 % of both sides; here the crop is a square of 87.5 % of the shorter
side. The code keeps 0.9997 of the statistics of batch normalisation per step, here 0.9. The paper's
50 replicas update asynchronously.
Command: python -m cnn_jax.main --config=configs/inception_v3.py --config.data.directory=DIR
Result: not yet run; the released weights have 78.0 % top-1, 93.9 % top-5 (TF-slim's table).
"""

from ml_collections import ConfigDict

from configs import base

# As `distort_color` in `research/inception/inception/image_processing.py`.
AUGMENT = (
    ("colour_jitter", {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 0.2}),
)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=299)
    config.model.name = "inception_v3"
    config.model.dropout_rate = 0.2
    config.data.crop_scale = (0.05, 1.0)
    config.data.crop_ratio = (0.75, 1.33)
    config.data.augment = AUGMENT
    config.optim.name = "rmsprop_tf"
    config.optim.learning_rate = 0.045
    config.optim.rms_decay = 0.9
    config.optim.eps = 1.0
    config.optim.weight_decay = 4e-5
    config.optim.clip_norm = 2.0
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 2.0
    config.optim.schedule.decay_factor = 0.94
    config.optim.schedule.staircase = True
    config.train.batch_size = 32
    config.eval.batch_size = 128
    config.train.epochs = 100.0
    config.loss.label_smoothing = 0.1
    config.loss.auxiliary_weight = 0.4
    config.ema.decay = 0.9999
    config.ema.warmup = True
    config.eval.weights = "average"
    return base.finish(config, variant)
