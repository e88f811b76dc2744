"""ResNet-110 on CIFAR-10.

Source: He et al. 2015 (arXiv:1512.03385), section 4.2. The recipe is that of `resnet20_cifar10.py`,
but the rate is 0.01 at first. In the paper, it is 0.01 until the training error is below 80 %,
which takes about 400 steps; here it is 0.01 for 400 steps.
Command: python -m cnn_jax.main --config=configs/resnet110_cifar10.py
Result: not yet run; the paper has 93.57 % top-1, 93.39 +- 0.16 % in five runs (Table 6).
"""

from ml_collections import ConfigDict

from configs import base, resnet20_cifar10


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = resnet20_cifar10.get_config()
    config.model.name = "resnet110"
    config.optim.schedule.warmup = "constant"
    config.optim.schedule.warmup_factor = 0.1
    config.optim.schedule.warmup_epochs = 400 / resnet20_cifar10.STEPS_PER_EPOCH
    return base.finish(config, variant)
