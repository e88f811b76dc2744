"""Weights of other libraries as variables of our networks, and back.

`load("resnet50.a1_in1k")` gives a network with timm's weights from the Hugging Face Hub and the
preprocessing that belongs to them, `load("resnet50-0676ba61.pth")` the same of a local file;
`from_torch` and `to_torch` turn a state dict into variables and back.
"""

from cnn_jax.pretrained.convert import from_torch, to_torch
from cnn_jax.pretrained.formats.files import read_state_dict
from cnn_jax.pretrained.keras.weights import KERAS, from_keras
from cnn_jax.pretrained.loading import Pretrained, load
from cnn_jax.pretrained.preprocessing import Preprocessing

__all__ = [
    "KERAS",
    "Preprocessing",
    "Pretrained",
    "from_keras",
    "from_torch",
    "load",
    "read_state_dict",
    "to_torch",
]
