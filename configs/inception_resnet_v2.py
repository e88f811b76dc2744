"""Inception-ResNet v2 on ImageNet.

Source: Szegedy et al. 2016 (arXiv:1602.07261), section 4: RMSProp, rate 0.045 times 0.94 every two
epochs. The paper says nothing else; batch size, momentum, weight decay, label smoothing and length
are those of Inception v3. The moving average of the parameters is missing here.
Command: python -m cnn_jax.main --config=configs/inception_resnet_v2.py --config.data.directory=DIR
Result: not yet run; the released weights have 80.4 % top-1, 95.3 % top-5 (TF-slim's table).
Limit: ImageNet cannot run in full yet. A data set must fit into the memory of each device, at most
8 GiB; use the variant `:smoke` or a small slice until streaming arrives with a later change.
"""

from ml_collections import ConfigDict

from configs import base, inception_v4


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = inception_v4.get_config()
    config.model.name = "inception_resnet_v2"
    return base.finish(config, variant, smoke_image_size=75)
