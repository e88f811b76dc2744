"""Swin-T on ImageNet.

Source: Liu et al. 2021 (arXiv:2103.14030), section 4.1, and the authors' code. AdamW has a rate of
5e-4 for every 512 images of a batch, 8 x 128 images, and a weight decay of 0.05 on kernels. The
rate warms up over 20 epochs; then a cosine ends after 300 epochs. Gradients are clipped at 5, label
smoothing is 0.1, stochastic depth 0.2. Augmentation is RandAugment (magnitude 9, standard deviation
0.5), random erasing of 25 % with noise, and mixup 0.8 or CutMix 1.0. The code's colour jitter of
0.4 has no effect, because timm leaves it out beside RandAugment. Crops are those of the code: 8 to
100 % of the area, ratio 3/4 to 4/3, bicubic. Evaluation crops the central 224x224 pixels at a
shorter side of 256. The code's rate follows the schedule one step later than here.
Command: python -m cnn_jax.main --config=configs/swin_tiny.py --config.data.directory=DIR
Result: not yet run; the authors' weights have 81.2 % top-1, 95.5 % top-5.
"""

from ml_collections import ConfigDict

from configs import base

# As `build_transform` and `Mixup` in `data/build.py`, with timm's `create_transform`.
AUGMENT = (
    ("rand_augment_timm", {"config": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic"}),
    (
        "random_erasing",
        {"probability": 0.25, "scale": (0.02, 1 / 3), "ratio": (0.3, 1 / 0.3), "mode": "pixel"},
    ),
    ("mixup_cutmix", {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "convention": "timm"}),
)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "swin_tiny_patch4_window7_224"
    config.data.resize = "bicubic"
    config.data.augment = AUGMENT
    config.optim.name = "adamw"
    config.optim.learning_rate = 5e-4
    config.optim.reference_batch_size = 512
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 5.0
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 20.0
    config.optim.schedule.warmup_factor = 1e-3
    config.optim.schedule.warmup_first_step = 0
    config.optim.schedule.end_factor = 1e-2
    config.train.batch_size = 1024
    config.train.epochs = 300.0
    config.loss.label_smoothing = 0.1
    return base.finish(config, variant, smoke_image_size=56)
