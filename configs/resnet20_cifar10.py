"""ResNet-20 on CIFAR-10.

Source: He et al. 2015 (arXiv:1512.03385), section 4.2. SGD has a momentum of 0.9, a weight decay of
1e-4 and a rate of 0.1, divided by 10 after 32,000 and 48,000 of 64,000 steps of 128 images. Images
are flipped at random, and cropped at random after padding by four pixels. 45,000 images are for
training, 5,000 for validation. Every parameter has weight decay, as in fb.resnet.torch; Goyal et
al. 2017 report none on normalisation for this paper's ImageNet networks. The paper subtracts the
mean of each pixel; here the mean of each channel, and pixels are divided by the deviation.
Command: python -m cnn_jax.main --config=configs/resnet20_cifar10.py
Result: not yet run; the paper has 91.25 % top-1 (Table 6).
"""

from ml_collections import ConfigDict

from configs import base

STEPS_PER_EPOCH = 45_000 // 128


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.get_config()
    config.model.name = "resnet20"
    config.data.update(
        source="tfds",
        name="cifar10:3.0.2",
        train_split="train[:45000]",
        validation_split="train[45000:]",
        channels=3,
        crop_padding=4,
        flip=True,
    )
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.decay = (".*",)
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (32_000 / STEPS_PER_EPOCH, 48_000 / STEPS_PER_EPOCH)
    config.train.batch_size = 128
    config.train.steps = 64_000
    return base.finish(config, variant)
