"""To be written."""

from cnn_jax.models import layers

VARIANTS: dict[str, layers.Variant] = {}
