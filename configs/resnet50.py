"""ResNet-50 on ImageNet in one hour: batches of 8192 images.

Source: Goyal et al. 2017 (arXiv:1706.02677), sections 5.1 and 5.2: Nesterov momentum 0.9, rate 0.1
for every 256 images of a batch, division by 10 at 30, 60 and 80 of 90 epochs. In the first 5
epochs, the rate rises from 0.1. Weight decay is 1e-4, but 0 on the scales and biases of
normalisation. The last normalisation scale of each block starts at zero. Crops are the paper's,
which are GoogLeNet's: 8 to 100 % of the area, ratio 3/4 to 4/3. The interpolation, bilinear, and
the shorter side of 256 pixels before the central crop of evaluation are torchvision's defaults. The
paper has no further augmentation than flips.

In the paper, each of 256 workers normalises its own 32 images. Here the statistics are of the whole
batch, or of a microbatch: `--config.train.microbatches=256` has the paper's. The rate follows
`train.batch_size`; with 256, the warm-up rises from 1/32 of the rate, where the paper has none.
Command: python -m cnn_jax.main --config=configs/resnet50.py --config.data.directory=DIR
Result: not yet run; the paper has 76.26 % top-1 with batches of 8192, 76.40 % with 256.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "resnet50"
    config.model.zero_init_residual = True
    config.optim.learning_rate = 0.1
    config.optim.reference_batch_size = 256
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.optim.decay = (r"\bkernel$", "^fc/bias$")
    config.optim.schedule.name = "step"
    config.optim.schedule.warmup_epochs = 5.0
    config.optim.schedule.warmup_factor = 256 / 8192
    config.optim.schedule.warmup_first_step = 0
    config.optim.schedule.boundary_epochs = (30.0, 60.0, 80.0)
    config.train.batch_size = 8192
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=32)
