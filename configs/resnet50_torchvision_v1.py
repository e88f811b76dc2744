"""torchvision's first ResNet-50 on ImageNet.

Source: torchvision's references/classification (README.md, `train.py`): rate 0.1, divided by 10
after epochs 30 and 60 of 90, weight decay 1e-4 on every parameter, batches of 8 x 32 images. Crops
are those of the reference: 8 to 100 % of the area, ratio 3/4 to 4/3, bilinear. Evaluation crops the
central 224x224 pixels at a shorter side of 256. The reference has no further augmentation.
Command: python -m cnn_jax.main --config=configs/resnet50_torchvision_v1.py
  --config.data.directory=DIR
Result: not yet run; torchvision quotes 76.130 % top-1, 92.862 % top-5 (IMAGENET1K_V1).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "resnet50"
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.decay = (".*",)
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0)
    config.train.batch_size = 256
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=32)
