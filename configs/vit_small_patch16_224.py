"""ViT-S/16 on ImageNet in 90 epochs.

Source: Beyer et al. 2022 (arXiv:2205.01580), section 2, and its code, big_vision's vit_s16_i1k.py.
Adam has a rate of 1e-3 for batches of 1024, with 10,000 steps of warm-up and a cosine. Gradients
are clipped at 1. The weight decay of the code is 1e-4 per step at the peak rate. The decoupled
weight decay of 0.1 here, times the rate of 1e-3, equals that. As in the code, kernels alone have
weight decay. Augmentation is RandAugment with 2 operations of magnitude 10, and mixup 0.2. The
network pools by the mean over its tokens, has fixed position embeddings and a hidden layer before
the head. Crops are those of this code: 5 to 100 % of the area, ratio 0.75 to 1.33, bilinear.
Evaluation crops the central 224x224 pixels at a shorter side of 256.

Departures: TensorFlow draws the crops by another rule (`docs/recipes.md`) and scales without
antialiasing. For evaluation, the code scales by averages over areas; here bilinearly. It stores
Adam's first moment in bfloat16; here it is float32. It scales pixels to -1 to 1; here ImageNet's
constants normalise them.
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
    config.model.pooling = "mean"
    config.model.positions = "sincos2d"
    config.model.hidden_head = True
    config.model.approximate_gelu = True
    config.model.initialization = "big_vision"
    config.data.crop_scale = (0.05, 1.0)
    config.data.crop_ratio = (0.75, 1.33)
    config.data.augment = (
        ("rand_augment_tf", {"num_layers": 2, "magnitude": 10}),
        ("mixup", {"alpha": 0.2, "convention": "big_vision"}),
    )
    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.1
    config.optim.clip_norm = 1.0
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 10_000 / 1238  # of steps
    config.optim.schedule.warmup_first_step = 0
    config.train.batch_size = 1024
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=32)
