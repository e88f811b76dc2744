"""torchvision's GoogLeNet with batch normalisation on ImageNet.

Source: torchvision's `googlenet`, whose weights were converted, not trained with torchvision. The
recipe is torchvision's for ResNets, with weight decay on every parameter, and so are the crops: 8
to 100 % of the area, ratio 3/4 to 4/3. Evaluation crops the central 224x224 pixels at a shorter
side of 256. That recipe has no further augmentation. The auxiliary losses are weighted by 0.3, as
in the paper.
Command: python -m cnn_jax.main --config=configs/googlenet_bn.py --config.data.directory=DIR
Result: not yet run; torchvision's page quotes 69.778 % top-1, 89.530 % top-5 for its weights.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "googlenet_bn"
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.decay = (".*",)
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0)
    config.train.batch_size = 256
    config.train.epochs = 90.0
    config.loss.auxiliary_weight = 0.3
    return base.finish(config, variant, smoke_image_size=32)
