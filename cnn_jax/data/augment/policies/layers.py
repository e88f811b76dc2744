"""Drawing of operations, and their application one after another."""

from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax import contracts
from cnn_jax.data.augment.operation import on_images
from cnn_jax.data.augment.policies import operations
from cnn_jax.data.augment.policies.operations import Chosen, Library
from cnn_jax.data.augment.policies.sub_policies import SubPolicy

Draw = Callable[[jax.Array, tuple[int, ...]], Chosen]
"""`(key, shape of the images) -> Chosen` with arrays `[L, B]`: L operations for each image."""


def augmentation(draw: Draw, library: Library, names: Collection[str]) -> contracts.Augmentation:
    """Returns the augmentation that draws operations for each image and applies them in order.

    Args:
      draw: draws the operations; see `Draw`.
      library: the definitions of the operations.
      names: the operations that can occur.
    """
    return on_images(lambda key, images: apply(images, draw(key, images.shape), library, names))


def apply(images: jax.Array, chosen: Chosen, library: Library, names: Collection[str]) -> jax.Array:
    """Applies several operations to each image, one after another; traceable.

    Args:
      images: `[B, H, W, C]` uint8.
      chosen: arrays `[L, B]`, of L operations for each image.
      library: the definitions of the operations.
      names: the operations that can occur.
    """

    def step(images: jax.Array, layer: Chosen) -> tuple[jax.Array, None]:
        return operations.apply(images, layer, library, names), None

    # A loop, so that the operations are compiled once.
    return lax.scan(step, images, chosen)[0]


def numbers(names: Sequence[str]) -> jax.Array:
    """Returns operations as indices of `operations.NAMES`, int32."""
    return jnp.array([operations.number(name) for name in names], jnp.int32)


def with_table(
    names: Sequence[str], table: np.ndarray, place: jax.Array, bins: jax.Array, key: jax.Array
) -> Chosen:
    """Looks up the arguments of operations in a table; each is negated with probability 0.5.

    Args:
      names: n operations.
      table: `[n, bins, 2]`: the argument, then the negated one. They are equal if the operation has
        no sign.
      place: `[L, B]` int32, an index of `names` for each image.
      bins: `[L, B]` int32, index of the table's second axis.
      key: the PRNG key of the signs.
    """
    argument = jnp.asarray(table, jnp.float32)[place, bins, signs(key, place.shape)]
    return Chosen(numbers(names)[place], argument)


def signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws 0 or 1 with equal probabilities, int32; 1: negated."""
    return jax.random.bernoulli(key, 0.5, shape).astype(jnp.int32)


def sub_policies(
    policy: Sequence[SubPolicy], key: jax.Array, batch: int
) -> tuple[jax.Array, jax.Array]:
    """Draws a sub-policy for each image, with equal probabilities.

    Args:
      policy: P sub-policies of two operations.
      key: a PRNG key.
      batch: the number of images.

    Returns:
      Indices in the flat list of P x 2 operations, `[2, B]` int32, and the mask of the operations
      that are applied, `[2, B]` bool.
    """
    first, second = jax.random.split(key)
    chosen = jax.random.randint(first, (batch,), 0, len(policy))
    places = 2 * chosen + jnp.arange(2)[:, None]
    probabilities = [probability for pair in policy for _, probability, _ in pair]
    shares = jnp.array(probabilities, jnp.float32)[places]
    return places, jax.random.uniform(second, places.shape) < shares


def with_sub_policies(
    policy: Sequence[SubPolicy],
    arguments: Callable[[str, int], np.ndarray],
    key: jax.Array,
    batch: int,
) -> Chosen:
    """Draws a sub-policy for each image; its arguments are negated with probability 0.5.

    Args:
      policy: the sub-policies.
      arguments: `(name, level) -> [2]`: the argument, then the negated one.
      key: a PRNG key.
      batch: the number of images.

    Returns:
      The operations, in arrays `[2, B]`; the identity where an operation is not applied.
    """
    first, second = jax.random.split(key)
    places, applied = sub_policies(policy, first, batch)
    steps = [step for pair in policy for step in pair]
    table = np.stack([arguments(name, level) for name, _, level in steps])[:, None]
    names = [name for name, _, _ in steps]
    chosen = with_table(names, table, places, jnp.zeros_like(places), second)
    return where(applied, chosen)


def where(applied: jax.Array, chosen: Chosen) -> Chosen:
    """Returns the operations where they are applied, and the identity elsewhere."""
    identity = operations.number("identity")
    return chosen._replace(operation=jnp.where(applied, chosen.operation, identity))


def names_of(policy: Sequence[SubPolicy]) -> tuple[str, ...]:
    """Returns the operations of a policy, sorted."""
    return tuple(sorted({name for pair in policy for name, _, _ in pair}))
