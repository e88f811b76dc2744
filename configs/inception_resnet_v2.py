"""Inception-ResNet v2 on ImageNet.

Source: Szegedy et al. 2016 (arXiv:1602.07261), section 4. The recipe is that of `inception_v4.py`,
as in the paper.
Command: python -m cnn_jax.main --config=configs/inception_resnet_v2.py --config.data.directory=DIR
Result: not yet run; the released weights have 80.4 % top-1, 95.3 % top-5 (TF-slim's table).
"""

from ml_collections import ConfigDict

from configs import base, inception_v4


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = inception_v4.get_config()
    config.model.name = "inception_resnet_v2"
    return base.finish(config, variant, smoke_image_size=75)
