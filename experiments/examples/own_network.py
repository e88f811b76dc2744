"""Trains a network of one's own; in a config file it is `own_network:Small`."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax import models, train


class Small(nn.Module):
    """Two convolutions and a dense layer, `[B, H, W, C]` to logits `[B, K]`."""

    num_classes: int
    width: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images
        for width in (self.width, 2 * self.width):
            x = nn.Conv(width, (3, 3), strides=2, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)).astype(jnp.float32))


models.register("small", Small, input_shape=(16, 16, 1))
models.check(models.create("small", num_classes=10), (16, 16, 1))
outcome = train.run(
    {
        "model": {"name": "small", "width": 8},
        "data": {"source": "digits", "image_size": 16, "resize": "bilinear"},
        "train": {"epochs": 15.0, "batch_size": 64},
    }
)
print(f"test accuracy {outcome.test['top1']:.3f}")
