"""Random changes to training images, on the device, functions of a key."""

import jax
import jax.numpy as jnp
from jax import lax


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Shift each image by up to `padding` pixels, filling with black.

    He et al. 2015 (arXiv:1512.03385), section 4.2: pad by four pixels and crop the original size.

    Args:
      key: a random key.
      images: `[B, H, W, C]`.
      padding: pixels on each side.
    """
    batch, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)

    return jax.vmap(crop)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image `[B, H, W, C]` left to right with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)
