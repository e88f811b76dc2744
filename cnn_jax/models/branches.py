"""Tables that describe networks: convolutions, and parallel branches that are concatenated."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.models import layers

Pair = tuple[int, int]


class Unit(NamedTuple):
    """Convolution in a table. The network adds its normalisation and activation function."""

    features: int
    kernel_size: Pair
    stride: int
    padding: Pair


def padded(features: int, kernel_size: int | Pair = 1, stride: int = 1) -> Unit:
    """Returns a convolution padded by half the kernel size, rounded down.

    With an odd kernel size and stride 1, it keeps the height and width of the image.
    """
    height, width = _pair(kernel_size)
    return Unit(features, (height, width), stride, (height // 2, width // 2))


def valid(features: int, kernel_size: int | Pair, stride: int = 1) -> Unit:
    """Returns a convolution without padding."""
    return Unit(features, _pair(kernel_size), stride, (0, 0))


def _pair(size: int | Pair) -> Pair:
    return (size, size) if isinstance(size, int) else size


# Step of a branch: a function without parameters, such as pooling; one unit; or two units that get
# the same input and whose outputs are concatenated.
Step = Callable[[jax.Array], jax.Array] | Unit | tuple[Unit, Unit]
# Branches by name. Each is a chain of steps; all get the same input and are concatenated.
Branches = Mapping[str, tuple[Step, ...]]
# Form of branches as a field of a module: Flax's transformations would sort the keys of a mapping,
# and so change the order of the channels.
Items = tuple[tuple[str, tuple[Step, ...]], ...]
# Part of a network, which is a sequence of named parts.
Part = Callable[[jax.Array], jax.Array] | Unit | Branches


def apply(
    name: str,
    part: Part,
    x: jax.Array,
    conv: layers.ModuleDef,
    *,
    first: int = 0,
    remat: bool = False,
) -> jax.Array:
    """Applies a part of a network, as child module `name` of the calling module.

    Args:
      name: name of the child module.
      part: the part to apply.
      x: `[B, H, W, C]`.
      conv: builds the module of a unit. It takes features and kernel size by position, and stride,
        padding and name as keywords.
      first: number of the first convolution of a branch, see `Mixed`.
      remat: whether the backward pass recomputes the activations of branches.

    Returns:
      `[B, H', W', C']`.
    """
    if isinstance(part, Unit):
        return _unit(name, part, x, conv)
    if callable(part):
        return part(x)
    mixed = layers.remat(Mixed, remat)(tuple(part.items()), conv, first, name=name)
    output: jax.Array = mixed(x)
    return output


def concatenated(
    x: jax.Array, branches: Items, conv: layers.ModuleDef, first: int = 0
) -> jax.Array:
    """Applies all branches to `x` and concatenates their outputs along the channels.

    Maps `[B, H, W, C]` to `[B, H', W', sum of the branches' channels]`. The convolutions become
    child modules of the calling module, named as described in `Mixed`.
    """
    outputs = []
    for name, steps in branches:
        y, number = x, first
        several = sum(not callable(step) for step in steps) > 1
        for step in steps:
            if callable(step):
                y = step(y)
                continue
            child = f"{name}_{number}" if several else name
            if isinstance(step, Unit):
                y = _unit(child, step, y, conv)
            else:
                ends = zip("ab", step, strict=True)
                y = jnp.concatenate([_unit(child + end, unit, y, conv) for end, unit in ends], -1)
            number += 1
        outputs.append(y)
    return jnp.concatenate(outputs, axis=-1)


def _unit(name: str, unit: Unit, x: jax.Array, conv: layers.ModuleDef) -> jax.Array:
    features, kernel_size, stride, padding = unit
    return conv(features, kernel_size, stride=stride, padding=padding, name=name)(x)


class Mixed(nn.Module):
    """Inception block: parallel branches of convolutions and pooling, concatenated.

    The only convolution of a branch has the name of the branch. Several convolutions are numbered
    from `first`, as in `branch5x5_1`, `branch5x5_2`. Two that share an input get the suffixes `a`
    and `b`, as in `branch3x3_2a`, `branch3x3_2b`.
    """

    branches: Items
    conv: layers.ModuleDef
    first: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return concatenated(x, self.branches, self.conv, self.first)
