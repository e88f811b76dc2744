"""Textbook convolutional network with a test accuracy above 92 % on Fashion-MNIST.

Géron 2022, 'Hands-On Machine Learning with Scikit-Learn, Keras, and TensorFlow', 3rd edition,
chapter 14, 'CNN Architectures': 1,413,834 parameters for 28x28x1 images and 10 classes.

Departures from the book: none in the network.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import dropout, layers, shapes

MIN_IMAGE_SIZE = 8  # smaller images have no pixels after three poolings with stride 2

# Name, channels and kernel size of the convolutions in each stage.
_STAGES = (
    (("conv1", 64, 7),),
    (("conv2a", 128, 3), ("conv2b", 128, 3)),
    (("conv3a", 256, 3), ("conv3b", 256, 3)),
)


class FashionCNN(nn.Module):
    """A 7x7 and four 3x3 convolutions in three stages, then three dense layers with dropout.

    Attributes:
      num_classes: the number of logits.
      dropout_rate: rate of the dropout after the two hidden dense layers.
      drop_connect_rate: rate of DropConnect in the two hidden dense layers.
      stochastic_pooling: whether stochastic pooling replaces max-pooling.
      remat: whether the backward pass recomputes each stage instead of storing its activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    dropout_rate: float = 0.5
    drop_connect_rate: float = 0.0
    stochastic_pooling: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "fashion_cnn")
        x = images
        for number in (1, 2, 3):
            # [B, 14, 14, 64] for a 28x28 image, [B, 7, 7, 128], [B, 3, 3, 256]
            stage = partial(FashionCNN._stage, number=number, train=train)
            x = layers.remat(stage, self.remat)(self, x)
            layers.feature(self, f"stage{number}", x)
        x = shapes.flatten_for(self, "dense1", x, images)
        dense = dropout.dense(self.drop_connect_rate, train=train)
        for name, width in (("dense1", 128), ("dense2", 64)):
            x = dense(width, kernel_init=layers.he_normal, dtype=self.dtype, name=name)(x)
            x = nn.relu(x)
            x = dropout.Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, dtype=self.dtype, name="output")
        return layers.logits(x, self.num_classes, head)

    def _stage(self, x: jax.Array, *, number: int, train: bool) -> jax.Array:
        """Applies the convolutions of stage `number` and pooling."""
        for name, channels, size in _STAGES[number - 1]:
            conv = layers.Conv(
                channels, (size, size), padding=size // 2, dtype=self.dtype, name=name
            )
            x = nn.relu(conv(x))
        if self.stochastic_pooling:
            return dropout.StochasticPool(2, deterministic=not train)(x)
        return ops.max_pool(x, 2)


VARIANTS = {"fashion_cnn": layers.Variant(FashionCNN, (28, 28, 1))}
