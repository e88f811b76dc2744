"""To be written."""

from cnn_jax.pretrained.names import Names

NAMES: dict[str, Names] = {}
