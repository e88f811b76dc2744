"""ResNet-50 on ImageNet with timm's recipe A3 of 100 epochs, trained at 160 pixels, tested at 224.

Source: Wightman et al. 2021, 'ResNet strikes back' (arXiv:2110.00476), Table 2: A1 with 100 epochs,
rate 8e-3, weight decay 0.02, RandAugment of magnitude 6, mixup 0.1, no label smoothing, no
stochastic depth and no repeated images. Departures are those of `resnet50_a1.py`.
Command: python -m cnn_jax.main --config=configs/resnet50_a3.py --config.data.directory=DIR
Result: not yet run; the paper has 78.1 % top-1.
"""

from ml_collections import ConfigDict

from configs import base, resnet50_a1


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = resnet50_a1.get_config()
    config.model.stochastic_depth_rate = 0.0
    config.data.image_size = 160
    config.data.eval_image_size = 224
    config.data.repeats = 1
    config.data.augment = resnet50_a1.augment(magnitude=6, mixup=0.1)
    config.optim.learning_rate = 8e-3
    config.optim.weight_decay = 0.02
    config.optim.schedule.warmup_factor = 1e-4 / 8e-3
    config.optim.schedule.end_factor = 1e-6 / 8e-3
    config.loss.label_smoothing = 0.0
    config.train.epochs = 100.0
    return base.finish(config, variant, smoke_image_size=32)
