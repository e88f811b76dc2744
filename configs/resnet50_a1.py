"""ResNet-50 on ImageNet with timm's recipe A1 of 600 epochs.

Source: Wightman et al. 2021, 'ResNet strikes back' (arXiv:2110.00476), Table 2. LAMB has a rate of
5e-3 for batches of 2048 and a weight decay of 0.01 on kernels. The loss is binary cross-entropy
with label smoothing 0.1; stochastic depth is 0.05. Augmentation is RandAugment (magnitude 7,
standard deviation 0.5) and mixup 0.2 or CutMix 1.0, with each image three times. The warm-up starts
at 1e-4 and the floor is 1e-6, by epoch, as `train.py` of timm in October 2021. Its 5 epochs are
those of published repetitions; the default there is 3. timm's cosine counts from the start of the
run, so that the full rate is never reached. Its LAMB clips the gradient at a norm of 1. Targets
above 0.2 become 1; with the smoothing, these are shares of a mixed image above 0.222. The commands
of published repetitions of A2 and A3 have this threshold (for one, by Ridnik et al.,
Alibaba-MIIL/ML_Decoder). mmpretrain's repetitions have no threshold and reach 80.1 %.

Departures: crops are bicubic; timm draws bilinear or bicubic. Evaluation crops the centre at a
shorter side of 224/0.95 pixels, as timm's.
Command: python -m cnn_jax.main --config=configs/resnet50_a1.py --config.data.directory=DIR
Result: not yet run; the paper has 80.4 % top-1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "resnet50"
    config.model.zero_init_residual = True
    config.model.stochastic_depth_rate = 0.05
    config.data.resize = "bicubic"
    config.data.shorter_side = 235
    config.data.repeats = 3
    config.data.augment = augment(magnitude=7, mixup=0.2)
    config.optim.name = "lamb"
    config.optim.learning_rate = 5e-3
    config.optim.eps = 1e-6
    config.optim.weight_decay = 0.01
    config.optim.clip_norm = 1.0
    config.optim.schedule.name = "cosine"
    config.optim.schedule.decay_from = "start"
    config.optim.schedule.per_epoch = True
    config.optim.schedule.warmup_epochs = 5.0
    config.optim.schedule.warmup_factor = 1e-4 / 5e-3
    config.optim.schedule.warmup_first_step = 0
    config.optim.schedule.end_factor = 1e-6 / 5e-3
    config.loss.name = "binary_cross_entropy"
    config.loss.label_smoothing = 0.1
    config.loss.target_threshold = 0.2
    config.train.batch_size = 2048
    config.train.epochs = 600.0
    return base.finish(config, variant, smoke_image_size=32)


def augment(magnitude: int, mixup: float) -> tuple[tuple[str, dict[str, str | float]], ...]:
    """Returns the augmentations of the recipes A1, A2 and A3.

    Args:
      magnitude: magnitude of RandAugment.
      mixup: parameter of mixup's beta distribution.
    """
    return (
        ("rand_augment_timm", {"config": f"rand-m{magnitude}-mstd0.5-inc1"}),
        ("mixup_cutmix", {"mixup_alpha": mixup, "cutmix_alpha": 1.0, "convention": "timm"}),
    )
