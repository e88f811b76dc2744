"""Rename table of Inception v3, for torchvision."""

from cnn_jax.pretrained.families.names import Names

NAMES = {"inception_v3": Names(((r"^aux\b", "AuxLogits"),))}
