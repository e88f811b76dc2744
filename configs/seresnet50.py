"""SE-ResNet-50 on ImageNet.

Source: Hu et al. 2017 (arXiv:1709.01507), section 5.1: batches of 1024, momentum 0.9, rate 0.6,
divided by 10 every 30 epochs, 100 epochs. The paper states no weight decay; this is ResNet's. Crops
are the paper's, with the numbers of the authors' README: 8 to 100 % of the area, ratio 3/4 to 4/3.
Evaluation crops the central 224x224 pixels at a shorter side of 256. The interpolation is not
stated by the source; bilinear is torchvision's default. Images are rotated by up to 10 degrees, as
in the README. Its pixel jitter is missing here.
Command: python -m cnn_jax.main --config=configs/seresnet50.py --config.data.directory=DIR
Result: not yet run; the authors' weights, those of legacy_seresnet50, give 77.6 % top-1, 93.6 %
top-5 for the central crop (their README).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "seresnet50"
    config.data.augment = (("random_affine", {"degrees": 10.0}),)
    config.optim.learning_rate = 0.6
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0, 90.0)
    config.train.batch_size = 1024
    config.train.epochs = 100.0
    return base.finish(config, variant)
