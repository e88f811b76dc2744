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

from cnn_jax.models import layers


class MLP(nn.Module):
    """Multilayer perceptron on the flattened image.

    Attributes:
      num_classes: the number of logits.
      widths: units of each hidden layer.
      activation: name of the activation function after each hidden layer.
      dropout_rate: rate of the dropout after each hidden layer.
      dtype: dtype of the computation.
    """

    num_classes: int
    widths: tuple[int, ...] = (256,)
    activation: str = "relu"
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        activation = layers.activation(self.activation)
        x = layers.flatten(images)  # [B, H W C]
        for index, width in enumerate(self.widths, start=1):
            dense = nn.Dense(
                width, kernel_init=layers.he_normal, dtype=self.dtype, name=f"hidden{index}"
            )
            x = activation(dense(x))  # [B, width]
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return layers.as_logits(nn.Dense(self.num_classes, dtype=self.dtype, name="output")(x))


class LogisticRegression(nn.Module):
    """One dense layer from pixels to logits, initialised to zero because the loss is convex."""

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        zeros = nn.initializers.zeros_init()
        output = nn.Dense(self.num_classes, kernel_init=zeros, dtype=self.dtype, name="output")
        return layers.as_logits(output(layers.flatten(images)))


VARIANTS = {
    "logistic_regression": layers.Variant(LogisticRegression, (28, 28, 1)),
    "mlp": layers.Variant(partial(MLP, widths=(256,)), (28, 28, 1)),
}
