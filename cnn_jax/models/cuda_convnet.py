"""The small networks for CIFAR-10 that came with AlexNet's code.

Krizhevsky 2011 to 2012, cuda-convnet (code.google.com/p/cuda-convnet), example-layers:
layers-80sec.cfg is `cuda_convnet_quick`, 145,578 parameters for 32x32x3 images and 10 classes, and
layers-18pct.cfg is `cuda_convnet_18pct`, 89,578. Caffe's cifar10_quick and cifar10_full are after
them.

Krizhevsky, Sutskever & Hinton 2012 (doi:10.1145/3065386) compare ReLU with tanh in Fig. 1 on 'a
four-layer convolutional neural network' without regularisation that the paper does not give: which
of these it was, if one of them, is not certain. With `activation="tanh"` either stands in for it.

Departures from the files: dropout before the output can be switched on; the normalisation of the
second (rnorm: the energy of 3x3 pixels of the same map, in place of channels; scale 5e-5, power
0.75, by layer-params-18pct.cfg and cuda-convnet's layer.py, which divides the scale by the window's
nine pixels) can be switched off.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import ops
from cnn_jax.models import layers

MIN_IMAGE_SIZE = 8  # three poolings by two that round up

_max_pool = partial(ops.max_pool, window=3, stride=2, ceil_mode=True)
_avg_pool = partial(ops.avg_pool, window=3, stride=2, ceil_mode=True)


class CudaConvnet(nn.Module):
    """Three 5x5 convolutions with overlapping poolings that round up, and one or two dense layers.

    Attributes:
      num_classes: units of fc10.
      hidden: whether there is fc64.
      local_response_norm: whether the first two poolings are followed by it.
      output_scale: standard deviation with which the dense layers start.
      activation: a key of `layers.ACTIVATIONS`.
      dropout_rate: before fc10.
      dtype: what is computed in.
    """

    num_classes: int
    hidden: bool
    local_response_norm: bool
    output_scale: float
    activation: str = "relu"
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        layers.check_image_size(images, MIN_IMAGE_SIZE, "cuda_convnet")
        activation = layers.activation(self.activation)
        x = activation(_max_pool(self._convolve("conv1", 32, 1e-4, images)))
        x = layers.feature(self, "stage1", self._normalize(x))  # [B, 16, 16, 32]
        x = _avg_pool(activation(self._convolve("conv2", 32, 0.01, x)))
        x = layers.feature(self, "stage2", self._normalize(x))  # [B, 8, 8, 32]
        x = _avg_pool(activation(self._convolve("conv3", 64, 0.01, x)))
        layers.feature(self, "stage3", x)
        x = layers.flatten(x)  # [B, 1024]
        init = nn.initializers.normal(self.output_scale)
        if self.hidden:
            x = activation(nn.Dense(64, kernel_init=init, dtype=self.dtype, name="fc64")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        output = nn.Dense(self.num_classes, kernel_init=init, dtype=self.dtype, name="fc10")
        return layers.as_logits(output(x))

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
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
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
