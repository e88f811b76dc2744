"""ConvNeXt-T on ImageNet.

Source: Liu et al. 2022 (arXiv:2201.03545), Table 5, and the authors' code. AdamW has a rate of 4e-3
for batches of 4096 and a weight decay of 0.05 on kernels. The rate warms up over 20 epochs; then a
cosine ends at 1e-6 after 300 epochs. Label smoothing and stochastic depth are 0.1, and layer scale
starts at 1e-6. The average has a decay of 0.9999. Augmentation is that of `swin_tiny.py`, as in the
code. Crops are those of the code: 8 to 100 % of the area, ratio 3/4 to 4/3, bicubic. Evaluation
crops the central 224x224 pixels at a shorter side of 256. The code's warm-up reaches the rate one
step earlier.
Command: python -m cnn_jax.main --config=configs/convnext_tiny.py --config.data.directory=DIR
Result: not yet run; the authors' weights have 82.1 % top-1.
"""

from ml_collections import ConfigDict

from configs import base, swin_tiny


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "convnext_tiny"
    config.data.resize = "bicubic"
    config.data.augment = swin_tiny.AUGMENT
    config.optim.name = "adamw"
    config.optim.learning_rate = 4e-3
    config.optim.reference_batch_size = 4096
    config.optim.weight_decay = 0.05
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 20.0
    config.optim.schedule.warmup_first_step = 0
    config.optim.schedule.end_factor = 1e-6 / 4e-3
    config.train.batch_size = 4096
    config.train.epochs = 300.0
    config.loss.label_smoothing = 0.1
    config.ema.decay = 0.9999
    config.eval.weights = "average"
    return base.finish(config, variant, smoke_image_size=32)
