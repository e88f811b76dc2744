"""ViT-S/16 on ImageNet.

Source: Beyer et al. 2022 (arXiv:2205.01580), section 2, and its code, big_vision's vit_s16_i1k.py:
Adam, 10,000 steps of warm-up, a decay of 1e-4 a step where the rate is at its peak, which is 0.1
times the rate here. Missing here are random crops of varying size and aspect, RandAugment and
mixup; that network averages its tokens and has fixed position embeddings.
Command: python -m cnn_jax.main --config=configs/vit_small_patch16_224.py
  --config.data.directory=DIR
Result: not yet run; the source has 76.5 % top-1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "vit_small_patch16_224"
    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.1
    config.optim.weight_decay_kind = "decoupled"
    config.optim.clip_norm = 1.0
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 8.0
    config.train.batch_size = 1024
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=32)
