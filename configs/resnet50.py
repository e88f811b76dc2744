"""ResNet-50 on ImageNet in 90 epochs, with warm-up and zero-initialised residual branches.

Source: Goyal et al. 2017 (arXiv:1706.02677), section 5.1: rate 0.1 for every 256 images of a batch,
warm-up over 5 epochs, division by 10 at 30, 60 and 80. Weight decay is 1e-4, but 0 on the scales
and biases of normalisation. The paper's warm-up starts at 0.1, so that it has no effect on batches
of 256; here it starts near 0. The last normalisation scale of each block starts at zero. Its top-1
error is 23.60 % with batches of 256. Crops are the paper's, which are GoogLeNet's: 8 to 100 % of
the area, ratio 3/4 to 4/3. The interpolation, bilinear, and the shorter side of 256 pixels before
the central crop of evaluation are torchvision's defaults. The paper has no further augmentation
than flips.
Command: python -m cnn_jax.main --config=configs/resnet50.py --config.data.directory=DIR
Result: not yet run; expected near 76.4 % top-1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "resnet50"
    config.model.zero_init_residual = True
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.decay = (r"\bkernel$", "^fc/bias$")
    config.optim.schedule.name = "step"
    config.optim.schedule.warmup_epochs = 5.0
    config.optim.schedule.boundary_epochs = (30.0, 60.0, 80.0)
    config.train.batch_size = 256
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=32)
