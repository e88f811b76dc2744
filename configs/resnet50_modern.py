"""ResNet-50 on ImageNet with a recipe of 2021: 600 epochs, label smoothing, cosine schedule.

Source: Vryniotis 2021, 'How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives'
(pytorch.org/blog): batches of 1024, rate 0.5, warm-up over 5 epochs, a cosine schedule to epoch
600, label smoothing 0.1, weight decay 2e-5 but 0 on normalisation. The source's warm-up starts at
0.01 of the rate and rises after each epoch; here it starts near 0 and rises after each step. Crops
are the source's: 8 to 100 % of the area, ratio 3/4 to 4/3. Evaluation crops the central 224x224
pixels at a shorter side of 232. Training at 176 pixels, TrivialAugment, random erasing, mixup,
CutMix, repeated augmentation and averaged weights are missing here.
Command: python -m cnn_jax.main --config=configs/resnet50_modern.py --config.data.directory=DIR
Result: not yet run; torchvision's page quotes 80.858 % top-1, 95.434 % top-5 for these weights.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "resnet50"
    config.data.shorter_side = 232
    config.optim.learning_rate = 0.5
    config.optim.weight_decay = 2e-5
    config.optim.decay = (r"\bkernel$", "^fc/bias$")
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 5.0
    config.loss.label_smoothing = 0.1
    config.train.batch_size = 1024
    config.train.epochs = 600.0
    return base.finish(config, variant, smoke_image_size=32)
