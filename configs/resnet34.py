"""ResNet-34 on ImageNet.

Source: He et al. 2015 (arXiv:1512.03385), section 3.4: batches of 256, SGD with momentum 0.9, rate
0.1 divided by 10 when the error stops falling, weight decay 1e-4, up to 60 x 10^4 steps. The epochs
are those of torchvision's reference: 90, with the rate divided at 30 and 60. As there, every
parameter has weight decay; the paper does not say which have it. Crops are those of the same
reference: 8 to 100 % of the area, ratio 3/4 to 4/3. Evaluation crops the central 224x224 pixels at
a shorter side of 256. The paper instead scales the shorter side to a random 256 to 480 pixels and
cuts 224x224 pixels at random. The paper's random colours are missing here.
Command: python -m cnn_jax.main --config=configs/resnet34.py --config.data.directory=DIR
Result: not yet run; torchvision's page quotes 73.314 % top-1, 91.420 % top-5 for its weights, which
were trained with these crops.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "resnet34"
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.decay = (".*",)
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0)
    config.train.batch_size = 256
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=32)
