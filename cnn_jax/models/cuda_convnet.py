"""Small networks for CIFAR-10 from cuda-convnet, the code of AlexNet.

Krizhevsky 2011 to 2012, cuda-convnet (code.google.com/p/cuda-convnet), example-layers. For 32x32x3
images and 10 classes:

- `cuda_convnet_quick`: layers-80sec.cfg, 145,578 parameters. Caffe's cifar10_quick follows it.
- `cuda_convnet_18pct`: layers-18pct.cfg, 89,578 parameters. Caffe's cifar10_full follows it.

Krizhevsky, Sutskever & Hinton 2012 (doi:10.1145/3065386) compare ReLU with tanh in Fig. 1. The
paper does not specify the 'four-layer convolutional neural network' of that figure.
`activation="tanh"` gives the tanh form of these two.

The normalisation of `cuda_convnet_18pct` is rnorm: it sums squares over 3x3 pixels of the same map
instead of over channels. Its scale 5e-5 and power 0.75 are from layer-params-18pct.cfg.
cuda-convnet's layer.py divides the scale by the nine pixels of the window, and rounds the sizes of
pooled maps up. The files are also in github.com/dnouri/cuda-convnet.

Departures from the files: options that switch on dropout before the output, DropConnect in the
hidden layer or stochastic pooling, and that switch off rnorm.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors, ops
from cnn_jax.models import dropout, layers, shapes
from cnn_jax.ops import dtypes

MIN_IMAGE_SIZE = 8  # smaller images have no pixels after three poolings with stride 2

# Channels of the convolutions, and the standard deviation of their initial weights.
_CONVOLUTIONS = ((32, 1e-4), (32, 0.01), (64, 0.01))

_max_pool = partial(ops.max_pool, window=3, stride=2, ceil_mode=True)
_avg_pool = partial(ops.avg_pool, window=3, stride=2, ceil_mode=True)


class CudaConvnet(nn.Module):
    """Three 5x5 convolutions with overlapping pooling, and one or two dense layers.

    Attributes:
      num_classes: the number of logits, the units of fc10.
      hidden: whether the network has the hidden dense layer fc64.
      local_response_norm: whether rnorm follows the first two poolings.
      output_scale: standard deviation of the initial weights of the dense layers.
      activation: a key of `layers.ACTIVATIONS`.
      dropout_rate: rate of the dropout before fc10.
      drop_connect_rate: rate of DropConnect in fc64; 0 for a network without this layer.
      stochastic_pooling: whether all poolings are stochastic, after the activation function, as in
        Zeiler & Fergus 2013 (arXiv:1301.3557), section 4; `activation` must not be tanh.
      remat: whether the backward pass recomputes each convolution, with its pooling and
        normalisation, instead of storing its activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    hidden: bool
    local_response_norm: bool
    output_scale: float
    activation: str = "relu"
    dropout_rate: float = 0.0
    drop_connect_rate: float = 0.0
    stochastic_pooling: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        dropout.check_pooling(self.stochastic_pooling, self.activation)
        if self.drop_connect_rate and not self.hidden:
            raise errors.UserError(
                "model.drop_connect_rate is for the hidden dense layer, and this network has none; "
                "set it to 0, or use cuda_convnet_quick"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "cuda_convnet")
        activation = layers.activation(self.activation)
        x = images
        for number in (1, 2, 3):  # [B, 16, 16, 32], [B, 8, 8, 32], [B, 4, 4, 64]
            stage = partial(CudaConvnet._stage, number=number, train=train)
            x = layers.remat(stage, self.remat)(self, x)
            layers.feature(self, f"stage{number}", x)
        first = "fc64" if self.hidden else "fc10" if self.num_classes else ""
        x = shapes.flatten_for(self, first, x, images)  # [B, 1024]
        init = nn.initializers.normal(self.output_scale)
        if self.hidden:
            dense = dropout.dense(self.drop_connect_rate, train=train)
            x = activation(dense(64, kernel_init=init, dtype=self.dtype, name="fc64")(x))
        x = dropout.Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(nn.Dense, kernel_init=init, dtype=self.dtype, name="fc10")
        return layers.logits(x, self.num_classes, head)

    def _stage(self, x: jax.Array, *, number: int, train: bool) -> jax.Array:
        """Applies convolution `number` and the layers up to the next convolution."""
        activation = layers.activation(self.activation)
        features, scale = _CONVOLUTIONS[number - 1]
        x = self._convolve(f"conv{number}", features, scale, x)
        if self.stochastic_pooling:
            pool = dropout.StochasticPool(3, 2, ceil_mode=True, deterministic=not train)
            x = pool(activation(x))
        else:
            x = activation(_max_pool(x)) if number == 1 else _avg_pool(activation(x))
        return x if number == 3 else self._normalize(x)

    def _convolve(self, name: str, features: int, scale: float, x: jax.Array) -> jax.Array:
        conv = layers.Conv(
            features,
            (5, 5),
            padding=2,
            kernel_init=nn.initializers.normal(scale),
            dtype=self.dtype,
            name=name,
        )
        return conv(x)

    def _normalize(self, x: jax.Array) -> jax.Array:
        if not self.local_response_norm:
            return x
        wide = dtypes.widen(x)
        energy = ops.avg_pool(jnp.square(wide), 3, stride=1, padding=1)
        return (wide * (1 + 5e-5 * energy) ** -0.75).astype(x.dtype)


VARIANTS = {
    "cuda_convnet_quick": layers.Variant(
        partial(CudaConvnet, hidden=True, local_response_norm=False, output_scale=0.1), (32, 32, 3)
    ),
    "cuda_convnet_18pct": layers.Variant(
        partial(CudaConvnet, hidden=False, local_response_norm=True, output_scale=0.01),
        (32, 32, 3),
    ),
}
