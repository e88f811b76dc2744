"""Baselines without convolutions: logistic regression and the multilayer perceptron.

Rumelhart, Hinton & Williams 1986, 'Learning representations by back-propagating errors',
Nature 323 (doi:10.1038/323533a0). `widths` lists the units of the hidden layers. Without hidden
layers the network is multinomial logistic regression.

Departures from the paper: softmax and cross-entropy replace the squared error. `activation` is
selectable and ReLU by default.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax.models import dropout, layers, shapes


class MLP(nn.Module):
    """Multilayer perceptron on the flattened image.

    Attributes:
      num_classes: the number of logits.
      widths: units of each hidden layer.
      activation: name of the activation function after each hidden layer.
      dropout_rate: rate of the dropout after each hidden layer.
      drop_connect_rate: rate of DropConnect in the hidden layers.
      remat: whether the backward pass recomputes each hidden layer instead of storing its
        activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    widths: tuple[int, ...] = (256,)
    activation: str = "relu"
    dropout_rate: float = 0.0
    drop_connect_rate: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        first = "hidden1" if self.widths else "output" if self.num_classes else ""
        x = shapes.flatten_for(self, first, images, images)  # [B, H W C]
        for index, width in enumerate(self.widths, start=1):
            name = f"hidden{index}"
            layer = partial(MLP._layer, width=width, train=train, name=name)
            x = layers.feature(self, name, layers.remat(layer, self.remat)(self, x))
        head = partial(nn.Dense, dtype=self.dtype, name="output")
        return layers.logits(x, self.num_classes, head)

    def _layer(self, x: jax.Array, *, width: int, train: bool, name: str) -> jax.Array:
        """Applies a hidden layer and dropout, `[B, C]` to `[B, width]`."""
        dense = dropout.dense(self.drop_connect_rate, train=train)
        x = dense(width, kernel_init=layers.he_normal, dtype=self.dtype, name=name)(x)
        x = layers.activation(self.activation)(x)
        return dropout.Dropout(self.dropout_rate, deterministic=not train)(x)


class LogisticRegression(nn.Module):
    """One dense layer from pixels to logits, initialised to zero because the loss is convex.

    Attributes:
      num_classes: the number of logits.
      remat: accepted as in all networks; there is no block to recompute.
      dtype: dtype of the computation.
    """

    num_classes: int
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        zeros = nn.initializers.zeros_init()
        first = "output" if self.num_classes else ""
        x = shapes.flatten_for(self, first, images, images)
        pixels = layers.feature(self, "pixels", x)
        head = partial(nn.Dense, kernel_init=zeros, dtype=self.dtype, name="output")
        return layers.logits(pixels, self.num_classes, head)


VARIANTS = {
    "logistic_regression": layers.Variant(LogisticRegression, (28, 28, 1)),
    "mlp": layers.Variant(partial(MLP, widths=(256,)), (28, 28, 1)),
}
