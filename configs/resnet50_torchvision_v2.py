"""torchvision's second ResNet-50 on ImageNet: 600 epochs, trained at 176 pixels, tested at 224.

Source: Vryniotis 2021, 'How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives'
(pytorch.org/blog), and the command of github.com/pytorch/vision/issues/3995. Batches have 8 x 128
images, and the rate is 0.5. It warms up over 5 epochs from 0.01 of that; then a cosine changes
after each epoch, to epoch 600. Weight decay is 2e-5, but 0 on normalisation; label smoothing is
0.1. Augmentation is TrivialAugment, random erasing of 10 %, and mixup 0.2 or CutMix 1.0 with equal
probability, with each image four times in a batch. The average is updated every 32 steps; its decay
0.99998 is rescaled as in `train.py`.

Departures: the reference's average is a copy of the parameters during the warm-up; here it starts
with the run. The reference's augmentation works on Pillow's images; here it is torchvision's on
tensors. The reference distributes the four versions of an image over eight processes; a batch here
holds the images that four processes would take.
Command: python -m cnn_jax.main --config=configs/resnet50_torchvision_v2.py
  --config.data.directory=DIR
Result: not yet run; torchvision's page quotes 80.858 % top-1, 95.434 % top-5 for these weights.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=176)
    config.model.name = "resnet50"
    config.data.eval_image_size = 224
    config.data.shorter_side = 232
    config.data.repeats = 4
    config.data.augment = (
        ("trivial_augment_wide", {"interpolation": "bilinear"}),
        ("random_erasing", {"probability": 0.1}),
        ("mixup_cutmix", {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "convention": "torchvision"}),
    )
    config.optim.learning_rate = 0.5
    config.optim.weight_decay = 2e-5
    config.optim.decay = (r"\bkernel$", "^fc/bias$")
    config.optim.schedule.name = "cosine"
    config.optim.schedule.per_epoch = True
    config.optim.schedule.warmup_epochs = 5.0
    config.optim.schedule.warmup_factor = 0.01
    config.optim.schedule.warmup_first_step = 0
    config.loss.label_smoothing = 0.1
    config.train.batch_size = 1024
    config.train.epochs = 600.0
    config.ema.decay = 1 - (1 - 0.99998) * 1024 * 32 / 600
    config.ema.every_steps = 32
    config.eval.weights = "average"
    return base.finish(config, variant, smoke_image_size=32)
