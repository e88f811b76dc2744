"""ConvNeXt-T on ImageNet.

Source: Liu et al. 2022 (arXiv:2201.03545), Table 5: AdamW for 300 epochs, stochastic depth with a
rate of 0.1, layer scale initialised to 1e-6. Crops are those of the authors' code: 8 to 100 % of
the area, ratio 3/4 to 4/3, bicubic. Evaluation crops the central 224x224 pixels at a shorter side
of 256. As in the code, kernels alone have weight decay, and the first rate of the warm-up is 0. The
cosine ends at 0, not at 1e-6. RandAugment, mixup, CutMix, random erasing and the moving average of
the parameters are missing here.
Command: python -m cnn_jax.main --config=configs/convnext_tiny.py --config.data.directory=DIR
Result: not yet run; the authors' weights have 82.1 % top-1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "convnext_tiny"
    config.data.resize = "bicubic"
    config.optim.name = "adamw"
    config.optim.learning_rate = 4e-3
    config.optim.weight_decay = 0.05
    config.optim.weight_decay_kind = "decoupled"
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 20.0
    config.optim.schedule.warmup_first_step = 0
    config.train.batch_size = 4096
    config.train.epochs = 300.0
    config.loss.label_smoothing = 0.1
    return base.finish(config, variant, smoke_image_size=32)
