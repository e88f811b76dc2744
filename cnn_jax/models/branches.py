"""Networks written down as tables: chains of convolutions, and such chains side by side."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.models import layers

Pair = tuple[int, int]


class Unit(NamedTuple):
    """A convolution with all that a network puts behind it, such as normalisation and ReLU."""

    features: int
    kernel_size: Pair
    stride: int
    padding: Pair


def padded(features: int, kernel_size: int | Pair = 1, stride: int = 1) -> Unit:
    """A convolution whose padding, half the kernel, keeps the image's size if the stride is 1."""
    height, width = _pair(kernel_size)
    return Unit(features, (height, width), stride, (height // 2, width // 2))


def valid(features: int, kernel_size: int | Pair, stride: int = 1) -> Unit:
    """A convolution without padding."""
    return Unit(features, _pair(kernel_size), stride, (0, 0))


def _pair(size: int | Pair) -> Pair:
    return (size, size) if isinstance(size, int) else size


# What has no parameters, such as pooling; a unit; or two that see the same and are concatenated.
Step = Callable[[jax.Array], jax.Array] | Unit | tuple[Unit, Unit]
# Chains of steps that see the same and are concatenated, by name.
Branches = Mapping[str, tuple[Step, ...]]
# What a network is a sequence of, by name.
Part = Callable[[jax.Array], jax.Array] | Unit | Branches


def apply(name: str, part: Part, x: jax.Array, conv: layers.ModuleDef, first: int = 0) -> jax.Array:
    """Run a part of a network, as a child of that name of the module that calls this.

    Args:
      name: of the child.
      part: of the network.
      x: `[B, H, W, C]`.
      conv: makes a unit's module; takes features and kernel size, and stride, padding and name as
        keywords.
      first: see `Mixed`.
    """
    if isinstance(part, Unit):
        return _unit(name, part, x, conv)
    if callable(part):
        return part(x)
    return Mixed(part, conv, first, name=name)(x)


def concatenated(
    x: jax.Array, branches: Branches, conv: layers.ModuleDef, first: int = 0
) -> jax.Array:
    """The outputs of all branches side by side, `[B, H, W, C]` to `[B, H', W', sum of widths]`.

    Their convolutions are children of the module that calls this, named as `Mixed` says.
    """
    outputs = []
    for name, steps in branches.items():
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
    """An inception block: branches of convolutions and pooling, concatenated.

    A branch's only convolution has the branch's name; several are numbered from `first`, as in
    `branch5x5_1`, `branch5x5_2`; two that share an input have an `a` and a `b` after that.
    """

    branches: Branches
    conv: layers.ModuleDef
    first: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return concatenated(x, self.branches, self.conv, self.first)
