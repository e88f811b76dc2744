"""Operations on single pixel values, as a table of 256 entries for each image and channel.

A table is `[B, 1 or C, 256]` uint8: the new value of each stored value. `apply` looks up the pixels
of a batch once, for any choice of operations. Parameters are `[B]`, one number for each image.
Rounding follows torchvision's `transforms.v2.functional` of uint8 tensors, or Pillow where a
function's `style` says so.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.data.augment.geometry import Style

_MOST_CHUNKS = 16


def apply(images: jax.Array, tables: jax.Array) -> jax.Array:
    """Returns `[B, H, W, C]` uint8: each value of the images replaced by its entry."""
    channels = images.shape[3]
    starts = 256 * jnp.arange(channels) * (tables.shape[1] > 1)
    # Without a barrier, XLA would compute an entry again for each pixel that has its value.
    tables = lax.optimization_barrier(tables)

    def look_up(image: jax.Array, table: jax.Array) -> jax.Array:
        places = image.astype(jnp.int32) + starts
        return table.reshape(-1).at[places].get(mode="promise_in_bounds")

    return jax.vmap(look_up)(images, tables)


def histograms(images: jax.Array) -> jax.Array:
    """Counts the pixels of each value, `[B, C, 256]` int32, of uint8 images `[B, H, W, C]`."""
    count, height, width, channels = images.shape
    # On a CPU, a scatter of a whole batch takes four times as long as one of a few rows.
    chunks = math.gcd(height, _MOST_CHUNKS)
    starts = 256 * jnp.arange(channels)

    def count_rows(total: jax.Array, rows: jax.Array) -> tuple[jax.Array, None]:
        places = (rows.astype(jnp.int32) + starts).reshape(count, -1)
        added = jax.vmap(lambda sums, place: sums.at[place].add(1, mode="promise_in_bounds"))
        return added(total, places), None

    rows = jnp.moveaxis(images.reshape(count, chunks, height // chunks, width, channels), 1, 0)
    # Not a constant, so that a batch that is split over devices stays split.
    zeros = jnp.zeros_like(images[:, 0, 0, :1], jnp.int32) * jnp.zeros(channels * 256, jnp.int32)
    return lax.scan(count_rows, zeros, rows)[0].reshape(count, channels, 256)


def identity(batch: int) -> jax.Array:
    """Returns the tables that leave `batch` images as they are."""
    return jnp.broadcast_to(_values().astype(jnp.uint8), (batch, 1, 256))


def invert(batch: int) -> jax.Array:
    """Returns the tables of `invert`: 255 minus the value."""
    return 255 - identity(batch)


def brightness(factors: jax.Array) -> jax.Array:
    """Returns the tables of `adjust_brightness`, and of Pillow's `ImageEnhance.Brightness`."""
    return _truncated(_values() * _each(factors))


def contrast(factors: jax.Array, means: jax.Array, style: Style = "torchvision") -> jax.Array:
    """Returns the tables of `adjust_contrast`, or of Pillow's `ImageEnhance.Contrast`.

    Args:
      factors: `[B]`; 0 gives the mean, 1 the image.
      means: `[B]`, of the grey image; `colour.grey_means` of the same style.
      style: the library.
    """
    values, factors, means = _values(), _each(factors), _each(means)
    if style == "torchvision":
        return _truncated(values * factors + means * (1 - factors))
    return _truncated(means + factors * (values - means))


def solarize(thresholds: jax.Array) -> jax.Array:
    """Returns the tables of `solarize`: values from the threshold on are inverted."""
    values = _values()
    return jnp.where(values >= _each(thresholds), 255 - values, values).astype(jnp.uint8)


def solarize_add(amounts: jax.Array) -> jax.Array:
    """Returns the tables of timm's and TensorFlow's `solarize_add`.

    Values below 128 are raised by an integer, to 255 at most.
    """
    values = _values()
    raised = jnp.minimum(values + jnp.floor(_each(amounts)), 255)
    return jnp.where(values < 128, raised, values).astype(jnp.uint8)


def posterize(bits: jax.Array) -> jax.Array:
    """Returns the tables of `posterize`: keeps the highest bits; 8 keep all, 0 give black."""
    dropped = 8 - _each(bits).astype(jnp.int32)
    return ((jnp.arange(256) >> dropped) << dropped).astype(jnp.uint8)


def autocontrast(histograms: jax.Array, style: Style = "torchvision") -> jax.Array:
    """Returns the tables of `autocontrast`, or of Pillow's `ImageOps.autocontrast`.

    Each channel is scaled so that its values reach from 0 to 255. Constant channels stay.

    Args:
      histograms: `[B, C, 256]`; see `histograms`.
      style: the library. Pillow computes in float64 with rounding errors, and ours in exact
        integers. 0.4 % of the entries differ by one.
    """
    present = histograms > 0
    low = jnp.argmax(present, axis=2, keepdims=True)
    high = 255 - jnp.argmax(present[:, :, ::-1], axis=2, keepdims=True)
    spread = jnp.maximum(high - low, 1)
    if style == "pillow":
        stretched = (255 * (jnp.arange(256) - low) // spread).astype(jnp.float32)
    else:
        divisor = spread.astype(jnp.float32) * np.float32(1 / 255)
        # Without a barrier, XLA multiplies by the reciprocal of each divisor, which is rounded.
        divisors = lax.optimization_barrier(jnp.broadcast_to(divisor, histograms.shape))
        stretched = (_values() - low) / divisors
    return _truncated(jnp.where(high > low, stretched, _values()))


def equalize(histograms: jax.Array) -> jax.Array:
    """Returns the tables of `equalize`, and of Pillow's `ImageOps.equalize`.

    Args:
      histograms: `[B, C, 256]`; see `histograms`.
    """
    below = jnp.cumsum(histograms, axis=2)
    last = 255 - jnp.argmax((histograms > 0)[:, :, ::-1], axis=2, keepdims=True)
    of_last = jnp.take_along_axis(histograms, last, axis=2)
    step = (below[:, :, -1:] - of_last) // 255
    divisor = jnp.maximum(step, 1)
    raised = jnp.concatenate([jnp.zeros_like(step), below[:, :, :-1]], axis=2) + step // 2
    table = jnp.clip(raised // divisor, 0, 255).astype(jnp.uint8)
    return jnp.where(step > 0, table, identity(1))


def _values() -> jax.Array:
    """Returns the stored values, `[256]` float32, which holds them exactly."""
    return jnp.arange(256, dtype=jnp.float32)


def _each(numbers: jax.Array) -> jax.Array:
    """Returns one number for each image, `[B]`, as `[B, 1, 1]`."""
    return numbers[:, None, None]


def _truncated(values: jax.Array) -> jax.Array:
    return jnp.clip(values, 0, 255).astype(jnp.uint8)
