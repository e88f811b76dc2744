"""LeNet-5 as it is taught today.

LeCun, Bottou, Bengio & Haffner 1998, 'Gradient-based learning applied to document recognition',
Proc. IEEE 86 (doi:10.1109/5.726791), Fig. 2: 61,706 parameters for 32x32x1 images and 10 classes.

Departures from the paper: C3 sees all six maps of S2 instead of the sparse Table I; S2 and S4 are
plain averages, without trainable coefficient and bias; the output is a dense layer under softmax
instead of distances to fixed codes; `activation` is selectable (the paper: a scaled tanh), and
dropout on the two hidden dense layers can be switched on.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers

MIN_IMAGE_SIZE = 16  # below this nothing is left of the image after S4


class LeNet(nn.Module):
    """Two convolutions with average pooling, two hidden dense layers; layers named as in Fig. 2."""

    num_classes: int
    activation: str = "relu"
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "lenet")
        activation = layers.activation(self.activation)
        conv = layers.Conv
        init = layers.glorot_uniform
        x = conv(6, (5, 5), kernel_init=init, dtype=self.dtype, name="C1")(images)
        x = ops.avg_pool(activation(x), 2)  # S2: [B, 14, 14, 6] for a 32x32 image
        x = conv(16, (5, 5), kernel_init=init, dtype=self.dtype, name="C3")(x)
        x = ops.avg_pool(activation(x), 2)  # S4: [B, 5, 5, 16]
        x = layers.flatten(x)
        for name, width in (("C5", 120), ("F6", 84)):
            x = activation(nn.Dense(width, kernel_init=init, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        output = nn.Dense(self.num_classes, kernel_init=init, dtype=self.dtype, name="output")
        return layers.as_logits(output(x))


VARIANTS = {"lenet": layers.Variant(LeNet, (32, 32, 1))}
