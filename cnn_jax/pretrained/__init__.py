"""Conversion of published weights to variables of these networks, and back.

- `loading`: `load`, a network with published weights and their preprocessing, in one call.
- `source`: finds weights on the Hub, in directories and in files.
- `saving`, `record`: `save`, weights files that describe their network in the metadata.
- `convert`, `layout`, `fit`, `heads`: state dict to variables and back, with strict checks; new
  heads.
- `network`: a network without its number of classes, and the shapes of its variables.
- `adapt`, `positions`: weights for images of another size or number of channels.
- `preprocessing`, `usual`: resize, crop and normalisation of timm and torchvision; class names.
- `families/`: the rename tables, one file per network family.
- `formats/`: safetensors and torch.save files, the Hugging Face Hub, torchvision's releases.
- `keras/`: `from_keras`, the weights of `keras.applications`, and `keras_preprocessing`.
"""

from cnn_jax.pretrained.convert import from_torch, to_torch
from cnn_jax.pretrained.formats.files import read_state_dict
from cnn_jax.pretrained.keras.inputs import keras_preprocessing
from cnn_jax.pretrained.keras.weights import KERAS, from_keras
from cnn_jax.pretrained.loading import Pretrained, load
from cnn_jax.pretrained.preprocessing import Preprocessing
from cnn_jax.pretrained.saving import save

__all__ = [
    "KERAS",
    "Preprocessing",
    "Pretrained",
    "from_keras",
    "from_torch",
    "keras_preprocessing",
    "load",
    "read_state_dict",
    "save",
    "to_torch",
]
