"""Rename table of DenseNet, for torchvision."""

from cnn_jax.models import densenet
from cnn_jax.pretrained.families.names import Names

_FEATURES = (("^(?!classifier$)", "features."),)

NAMES = {name: Names(_FEATURES) for name in densenet.VARIANTS}
