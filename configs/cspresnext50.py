"""CSPResNeXt-50 on ImageNet.

Source: Wang et al. 2019 (arXiv:1911.11929), section 4.1, and the authors' csresnext50.cfg: batches
of 128, momentum 0.9, rate 0.1 that decays with the fourth power of the remaining share of the run,
images of 256 pixels. Weight decay 5e-4, 800,000 steps and the warm-up of 1,000 steps are the
file's; the paper has 0.005 and 8,000,000. Darknet's warm-up rises with the fourth power; here it is
linear. Crops follow the file: ratio 3/4 to 4/3 and at least (256/448)^2 = 0.33 of the area, from
its `max_crop`. Images are rotated by up to 7 degrees, hue varies by 0.1, and brightness and
saturation are multiplied by 0.75 to 4/3. Darknet draws these factors in its own way. Evaluation
crops the central square. Crops that reach beyond the image (its `min_crop`) are missing here.
Command: python -m cnn_jax.main --config=configs/cspresnext50.py --config.data.directory=DIR
Result: not yet run; the authors' weights give 77.9 % top-1, 94.0 % top-5 (their table).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=256)
    config.model.name = "cspresnext50"
    config.data.crop_scale = (0.33, 1.0)
    config.data.shorter_side = 256
    config.data.augment = (
        ("random_affine", {"degrees": 7.0}),
        ("colour_jitter", {"brightness": 0.25, "saturation": 0.25, "hue": 0.1}),
    )
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "polynomial"
    config.optim.schedule.power = 4.0
    config.optim.schedule.decay_from = "start"
    config.optim.schedule.warmup_epochs = 0.1
    config.train.batch_size = 128
    config.train.epochs = 80.0
    return base.finish(config, variant)
