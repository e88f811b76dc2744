"""MobileNet v3 (large) on ImageNet with timm's recipe.

Source: Howard et al. 2019 (arXiv:1905.02244) for the network, and timm's documentation
(hfdocs/source/training_script.mdx) for the recipe. TensorFlow's RMSProp has an epsilon of 1e-3 and
a rate of 0.064 for batches of 2 x 512 images. The rate is multiplied by 0.973 every 2.4 epochs, by
epoch, for 600 epochs. Weight decay is 1e-5 on kernels, label smoothing 0.1, dropout and stochastic
depth 0.2. Augmentation is RandAugment (magnitude 9, standard deviation 0.5) and random erasing of
20 % with noise. The average has a decay of 0.9999. The warm-up is that of timm's `train.py` of May
2020: 3 epochs from 1e-6. timm's RMSProp starts with a second moment of 1, as TensorFlow's.

Departures: timm's rate has random noise from 42 % to 90 % of the run; here it has none. Crops are
bicubic; timm draws bilinear or bicubic.
Command: python -m cnn_jax.main --config=configs/mobilenetv3_large.py --config.data.directory=DIR
Result: not yet run; timm's page quotes 75.766 % top-1, 92.542 % top-5.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "mobilenetv3_large_100"
    config.model.dropout_rate = 0.2
    config.model.stochastic_depth_rate = 0.2
    config.data.resize = "bicubic"
    config.data.augment = (
        ("rand_augment_timm", {"config": "rand-m9-mstd0.5"}),
        (
            "random_erasing",
            {"probability": 0.2, "scale": (0.02, 1 / 3), "ratio": (0.3, 1 / 0.3), "mode": "pixel"},
        ),
    )
    config.optim.name = "rmsprop_tf"
    config.optim.learning_rate = 0.064
    config.optim.reference_batch_size = 1024
    config.optim.momentum = 0.9
    config.optim.rms_decay = 0.9
    config.optim.eps = 1e-3
    config.optim.weight_decay = 1e-5
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_from = "start"
    config.optim.schedule.per_epoch = True
    config.optim.schedule.warmup_epochs = 3.0
    config.optim.schedule.warmup_factor = 1e-6 / 0.064
    config.optim.schedule.warmup_first_step = 0
    config.optim.schedule.decay_epochs = 2.4
    config.optim.schedule.decay_factor = 0.973
    config.optim.schedule.staircase = True
    config.loss.label_smoothing = 0.1
    config.train.batch_size = 1024
    config.train.epochs = 600.0
    config.ema.decay = 0.9999
    config.eval.weights = "average"
    return base.finish(config, variant, smoke_image_size=32)
