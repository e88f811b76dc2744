"""ResNet-50 on ImageNet with timm's recipe A2 of 300 epochs.

Source: Wightman et al. 2021, 'ResNet strikes back' (arXiv:2110.00476), Table 2: A1 with 300 epochs,
weight decay 0.02, mixup 0.1 and no label smoothing. Departures are those of `resnet50_a1.py`.
Command: python -m cnn_jax.main --config=configs/resnet50_a2.py --config.data.directory=DIR
Result: not yet run; the paper has 79.8 % top-1.
"""

from ml_collections import ConfigDict

from configs import base, resnet50_a1


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = resnet50_a1.get_config()
    config.data.augment = resnet50_a1.augment(magnitude=7, mixup=0.1)
    config.optim.weight_decay = 0.02
    config.loss.label_smoothing = 0.0
    config.train.epochs = 300.0
    return base.finish(config, variant, smoke_image_size=32)
