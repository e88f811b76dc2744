"""Pre-activation ResNet-50 on ImageNet.

Source: He et al. 2016 (arXiv:1603.05027), for ResNets of 152 and 200 layers: batches of 256, rate
0.1, divided by 10 after epochs 30 and 60. Length, Nesterov's momentum, weight decay and
augmentation are those of fb.resnet.torch, on which the paper builds. Crops are those of
fb.resnet.torch, too: 8 to 100 % of the area, ratio 3/4 to 4/3, bicubic. Brightness, contrast and
saturation vary by 0.4 in random order, then colours along their principal components. Evaluation
crops the central 224x224 pixels at a shorter side of 256. As in that code, every parameter has
weight decay. The principal components are those of the training set, not the code's constants. The
code draws ratios uniformly from 3/4 to 4/3 and swaps the sides of half of the crops; here the
logarithms of the ratios are uniform.
Command: python -m cnn_jax.main --config=configs/resnetv2_50.py --config.data.directory=DIR
Result: not yet run; Keras' page quotes 76.0 % top-1, 93.0 % top-5 for its ResNet50V2.
"""

from ml_collections import ConfigDict

from configs import base

# As in `datasets/imagenet.lua` of fb.resnet.torch.
AUGMENT = (
    ("colour_jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}),
    ("pca_colour", {"std": 0.1}),
)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "resnetv2_50"
    config.data.resize = "bicubic"
    config.data.augment = AUGMENT
    config.optim.learning_rate = 0.1
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.optim.decay = (".*",)
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (30.0, 60.0)
    config.train.batch_size = 256
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=32)
