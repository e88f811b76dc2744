"""ViT-S/16 on ImageNet.

Source: Beyer et al. 2022 (arXiv:2205.01580), section 2, and its code, big_vision's vit_s16_i1k.py:
Adam, 10,000 steps of warm-up, and a weight decay of 1e-4 per step at the peak rate. The decoupled
weight decay of 0.1 here, times the rate of 1e-3, equals that. As in the code, kernels alone have
weight decay, and the first rate of the warm-up is 0. Crops are those of this code: 5 to 100 % of
the area, ratio 3/4 to 4/3, bilinear, but antialiased here. Evaluation crops the central 224x224
pixels at a shorter side of 256. RandAugment and mixup are missing here. The source's network pools
by the mean over its tokens and has fixed position embeddings.
Command: python -m cnn_jax.main --config=configs/vit_small_patch16_224.py
  --config.data.directory=DIR
Result: not yet run; the source has 76.5 % top-1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "vit_small_patch16_224"
    config.data.crop_scale = (0.05, 1.0)
    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.1
    config.optim.weight_decay_kind = "decoupled"
    config.optim.clip_norm = 1.0
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 8.0
    config.optim.schedule.warmup_first_step = 0
    config.train.batch_size = 1024
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=32)
