"""Swin-T on ImageNet.

Source: Liu et al. 2021 (arXiv:2103.14030), section 4.1, and the authors' code: AdamW for 300
epochs, stochastic depth with a rate of 0.2. Crops are those of the code: 8 to 100 % of the area,
ratio 3/4 to 4/3, bicubic. Evaluation crops the central 224x224 pixels at a shorter side of 256. As
in the code, kernels alone have weight decay. The code's rate starts at 1e-6 and ends at 1e-5; here
it starts near 0 and ends at 0. RandAugment, mixup, CutMix and random erasing are missing here.
Command: python -m cnn_jax.main --config=configs/swin_tiny.py --config.data.directory=DIR
Result: not yet run; the authors' weights have 81.2 % top-1, 95.5 % top-5.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "swin_tiny_patch4_window7_224"
    config.data.resize = "bicubic"
    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.05
    config.optim.weight_decay_kind = "decoupled"
    config.optim.clip_norm = 5.0
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 20.0
    config.train.batch_size = 1024
    config.train.epochs = 300.0
    config.loss.label_smoothing = 0.1
    return base.finish(config, variant, smoke_image_size=56)
