"""Reshaping and pooling of feature maps, under every kind of mesh and for every batch size."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnn_jax import errors


def explicit_sharding(x: jax.Array) -> NamedSharding | None:
    """Returns the sharding of `x` if its mesh has axes of type `Explicit`, and None otherwise."""
    sharding = jax.typeof(x).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def batch_sharding(x: jax.Array) -> NamedSharding | None:
    """Returns a sharding whose first axis is split like that of `x`; no other axis is split.

    Returns None if the mesh has no axes of type `Explicit`. JAX functions that cannot infer the
    sharding of their result take it as `out_sharding`.
    """
    sharding = explicit_sharding(x)
    return sharding and NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))


def reshape(x: jax.Array, *shape: int) -> jax.Array:
    """Reshapes the axes of `x` after the first, the images; the first keeps its sharding.

    Args:
      x: `[B, ...]`.
      *shape: the new shape, which starts with B. All sizes are given, because -1 has no value for
        an empty batch.
    """
    return jax.lax.reshape(x, shape, out_sharding=batch_sharding(x))


def flatten(x: jax.Array) -> jax.Array:
    """Flattens `[B, ..., C]` to `[B, N]`; the channel index varies fastest."""
    x = jnp.asarray(x)
    return reshape(x, x.shape[0], math.prod(x.shape[1:]))


def flatten_for(
    module: nn.Module, name: str, x: jax.Array, images: jax.Array, *, pooled: int = 0
) -> jax.Array:
    """Flattens feature maps for a dense layer, whose parameters fix the size of the maps.

    `init` creates the parameters for the map size of its images. `apply` uses the given parameters.

    Args:
      module: the calling module.
      name: name of the dense layer, a child of `module`; empty if no layer follows.
      x: the maps, `[B, H', W', C]`.
      images: the images of these maps, `[B, H, W, C_0]`.
      pooled: height and width of the maps for images of the published size. Maps of another size
        than that of the parameters are pooled, as in torchvision. With 0, another size is an error.

    Returns:
      `[B, N]`, for a layer of N inputs.

    Raises:
      UserError: the layer's parameters are for images of another size.
    """
    count = math.prod(x.shape[1:])
    inputs = count if (kernel := _given(module, name, "kernel")) is None else kernel[0]
    side = math.isqrt(inputs // x.shape[-1])
    square = inputs == x.shape[-1] * side**2
    # Maps of 4x9 pixels have as many pixels as published maps of 6x6, but are pooled too.
    if pooled and square and (side == pooled or inputs != count):
        return flatten(adaptive_pool(x, (side, side)))
    if inputs != count:
        raise wrong_size(name, f"{inputs:,} inputs", images, f"{count:,}")
    return flatten(x)


def wrong_size(name: str, taken: str, images: jax.Array, given: str) -> errors.UserError:
    """Returns the error for parameters that were made for images of another size.

    Args:
      name: name of the parameters.
      taken: the number of inputs of these parameters, in words.
      images: the images, `[B, H, W, C]`.
      given: the number of inputs that the images give, in words.
    """
    size = "x".join(map(str, images.shape[1:]))
    return errors.UserError(
        f"the parameters of {name} are for images of another size: they are for {taken}, but images"
        f" of {size} (height, width, channels) give {given}; use images of the size given to init"
    )


def check_parameter(
    module: nn.Module, name: str, shape: tuple[int, ...], images: jax.Array
) -> None:
    """Checks that a parameter whose shape depends on the image size fits the images.

    Args:
      module: the module that has the parameter.
      name: name of the parameter.
      shape: the shape for these images.
      images: the images, `[B, H, W, C]`.

    Raises:
      UserError: the parameter has another shape.
    """
    given = _given(module, name)
    if given is not None and given != shape:
        raise wrong_size(name, f"the shape {list(given)}", images, str(list(shape)))


def _given(module: nn.Module, *path: str) -> tuple[int, ...] | None:
    """Returns the shape of a parameter that was passed to `apply`; None in `init`."""
    given: Any = module.get_variable("params", path[0])
    for name in path[1:]:
        given = None if given is None else given.get(name)
    return None if given is None else jnp.shape(nn.unbox(given))


def adaptive_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Applies adaptive average pooling, `[B, H, W, C]` to `[B, *size, C]`.

    As in torch, row `i` of `n` is the mean of the pixels from `i H / n`, rounded down, to
    `(i + 1) H / n`, rounded up. If `H` is not a multiple of `n`, these windows overlap by a pixel
    or differ in height. If `H` is smaller than `n`, pixels repeat. The same holds for columns.
    """
    for axis, outputs in enumerate(size, 1):
        length = x.shape[axis]
        if length == outputs:
            continue
        bounds = [(i * length // outputs, -(-(i + 1) * length // outputs)) for i in range(outputs)]
        means = [jax.lax.slice_in_dim(x, *ends, axis=axis).mean(axis) for ends in bounds]
        x = jnp.stack(means, axis)
    return x
