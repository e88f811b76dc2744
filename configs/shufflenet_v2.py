"""ShuffleNet v2 on ImageNet.

Source: Ma et al. 2018 (arXiv:1807.11164), section 4, which refers to Zhang et al. 2017
(arXiv:1707.01083) for training. Their code (`ShuffleNetV1/train.py` of
megvii-model/ShuffleNet-Series) decays the rate linearly from 0.5 over 300,000 batches of 1024, with
weight decay 4e-5 and label smoothing 0.1. Crops and colours are those of this code: 8 to 100 % of
the area, ratio 3/4 to 4/3; brightness, contrast and saturation vary by 0.4 in random order.
Evaluation crops the central 224x224 pixels at a shorter side of 256.
Command: python -m cnn_jax.main --config=configs/shufflenet_v2.py --config.data.directory=DIR
Result: not yet run; torchvision quotes 69.362 % top-1, 88.316 % top-5 for its weights.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "shufflenet_v2_x1_0"
    config.data.augment = (
        ("colour_jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}),
    )
    config.optim.learning_rate = 0.5
    config.optim.weight_decay = 4e-5
    config.optim.schedule.name = "polynomial"
    config.train.batch_size = 1024
    config.train.epochs = 240.0
    config.loss.label_smoothing = 0.1
    return base.finish(config, variant, smoke_image_size=32)
