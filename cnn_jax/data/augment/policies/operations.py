"""The operations of policies, one for each image, in a few passes over the batch.

A policy draws an operation and its argument for each image. `apply` groups the operations into five
passes: lookup table, saturation, sharpness, affine warp and cutout. On accelerators, and with
several devices, each pass runs on the whole batch, and each image keeps the result of its
operation. On a single CPU device, each image takes only the pass of its operation.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.data.augment import colour, erasing, filters, geometry, tables

NAMES = (
    *("identity", "auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add"),
    *("brightness", "contrast", "saturation", "sharpness"),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "cutout"),
)
"""The operations. Their arguments:

- identity, auto_contrast, equalize, invert: none.
- posterize: the number of bits to keep.
- solarize: the smallest byte that is inverted.
- solarize_add: the number that is added to bytes below 128.
- brightness, contrast, saturation, sharpness: the factor, 1 for no change.
- rotate: degrees, counter-clockwise. shear_x, shear_y: the tangent of the angle.
- translate_x, translate_y: pixels, in the direction of the library.
- cutout: half the side of the square in pixels.
"""

_GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_POINTWISE = (*NAMES[1:7], "brightness", "contrast")
_OF_HISTOGRAM = ("auto_contrast", "equalize")
# Operations with the same passes.
_GROUPS = (
    *(_OF_HISTOGRAM, tuple(name for name in _POINTWISE if name not in _OF_HISTOGRAM)),
    *(("saturation",), ("sharpness",), _GEOMETRIC, ("cutout",)),
)

INTERPOLATIONS: Mapping[str, geometry.Interpolation] = MappingProxyType(
    {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "random": "bicubic"}
)
"""The interpolation of each option. For 'random', `Chosen.linear` takes half of the images."""


class Chosen(NamedTuple):
    """The operation of each image.

    Attributes:
      operation: `[B]` int32, an index of `NAMES`.
      argument: `[B]` float32; see `NAMES`.
      centre: `[B, 2]` int32, row and column of the square of cutout; None without cutout.
      linear: `[B]` bool, True for bilinear in place of bicubic interpolation; or None.
    """

    operation: jax.Array
    argument: jax.Array
    centre: jax.Array | None = None
    linear: jax.Array | None = None


class Library(NamedTuple):
    """A library's definitions of the operations.

    Attributes:
      style: the library.
      interpolation: of operations that move pixels.
      fill: the pixel outside the image, and in the square of cutout.
    """

    style: geometry.Style
    interpolation: geometry.Interpolation
    fill: geometry.Fill


def apply(images: jax.Array, chosen: Chosen, library: Library, names: Collection[str]) -> jax.Array:
    """Applies the chosen operation of each image; traceable.

    Args:
      images: `[B, H, W, C]` uint8.
      chosen: the operation of each image.
      library: the definitions of the operations.
      names: the operations that can occur; no work is done for others.
    """
    if jax.device_count() > 1:
        # XLA copies the images to all devices for a loop over the axis that is split over them.
        return at_once(images, chosen, library, names)
    return lax.platform_dependent(
        images,
        chosen,
        cpu=functools.partial(one_by_one, library=library, names=names),
        default=functools.partial(at_once, library=library, names=names),
    )


def one_by_one(
    images: jax.Array, chosen: Chosen, library: Library, names: Collection[str]
) -> jax.Array:
    """Loops over the images and computes only the pass of each image's operation.

    On a CPU, it takes a third of the time of `at_once`. Args are those of `apply`.
    """
    groups = [[name for name in group if name in names] for group in _GROUPS]
    used = [group for group in groups if group]
    group_of = np.zeros(len(NAMES), np.int32)
    for place, group in enumerate(used):
        group_of[[number(name) for name in group]] = place + 1
    branches = [lambda image, _: image]
    branches += [functools.partial(at_once, library=library, names=group) for group in used]

    def change(each: tuple[jax.Array, Chosen]) -> jax.Array:
        image, own = jax.tree.map(lambda array: array[None], each)
        return lax.switch(jnp.asarray(group_of)[own.operation[0]], branches, image, own)[0]

    return lax.map(change, (images, chosen))


def at_once(
    images: jax.Array, chosen: Chosen, library: Library, names: Collection[str]
) -> jax.Array:
    """Computes all operations for all images, and selects the result of each image.

    Args are those of `apply`.
    """
    # Every pass reads the given images. In a chain of passes, XLA computes the passes before again
    # for each pixel that a pass reads: on a CPU, that takes four times as long.
    result = images
    if not set(names).isdisjoint(_POINTWISE):
        result = tables.apply(images, _tables(images, chosen, library.style, names))
    if "saturation" in names:
        factors = _argument(chosen, "saturation", 1.0)
        changed = colour.saturation(images, factors, library.style)
        result = jnp.where(_is(chosen, "saturation"), changed, result)
    if "sharpness" in names:
        factors = _argument(chosen, "sharpness", 1.0)
        changed = filters.sharpness(images, factors, library.style)
        result = jnp.where(_is(chosen, "sharpness"), changed, result)
    if not set(names).isdisjoint(_GEOMETRIC):
        matrices = _matrices(images, chosen, library.style, names)
        changed = geometry.warp(
            images, matrices, library.fill, library.interpolation, library.style, chosen.linear
        )
        result = jnp.where(_is(chosen, *_GEOMETRIC), changed, result)
    if "cutout" in names and chosen.centre is not None:
        half = _argument(chosen, "cutout", 0.0).astype(jnp.int32)[:, None]
        boxes = erasing.around(chosen.centre, half, *images.shape[1:3])
        result = erasing.erase(result, boxes, jnp.asarray(library.fill or 0.0))
    return result


def number(name: str) -> int:
    """Returns the index of an operation in `NAMES`."""
    return NAMES.index(name)


def _is(chosen: Chosen, *names: str) -> jax.Array:
    """Returns the mask of the images with one of these operations, `[B, 1, 1, 1]` bool."""
    numbers = jnp.array([number(name) for name in names])
    return (chosen.operation[:, None] == numbers).any(-1)[:, None, None, None]


def _argument(chosen: Chosen, name: str, otherwise: float) -> jax.Array:
    """Returns the arguments `[B]` of the images with an operation, and `otherwise` for others."""
    return jnp.where(chosen.operation == number(name), chosen.argument, otherwise)


def _tables(
    images: jax.Array, chosen: Chosen, style: geometry.Style, names: Collection[str]
) -> jax.Array:
    """Returns the table of each image and channel, `[B, C, 256]` uint8."""
    argument, batch = chosen.argument, len(images)
    makers: dict[str, Callable[[], jax.Array]] = {
        "auto_contrast": lambda: tables.autocontrast(histograms, style),
        "equalize": lambda: tables.equalize(histograms),
        "invert": lambda: tables.invert(batch),
        "posterize": lambda: tables.posterize(argument.astype(jnp.int32)),
        "solarize": lambda: tables.solarize(argument),
        "solarize_add": lambda: tables.solarize_add(argument),
        "brightness": lambda: tables.brightness(argument),
        "contrast": lambda: tables.contrast(argument, _grey_means(images, style), style),
    }
    if not set(names).isdisjoint(_OF_HISTOGRAM):
        histograms = tables.histograms(images)
    used = [name for name in makers if name in names]
    own = [chosen.operation == number(name) for name in used]
    others = ~jnp.stack(own).any(0)
    shape = (batch, images.shape[-1], 256)
    made = [tables.identity(batch), *(makers[name]() for name in used)]
    stacked = jnp.stack([jnp.broadcast_to(table, shape) for table in made], axis=1)
    # A product selects the table, exactly: bytes have eight bits. XLA stores the result of a
    # product. That of `jnp.select` would be computed again for each pixel that is looked up.
    shares = jnp.stack([others, *own], axis=1).astype(jnp.float32)
    return jnp.einsum("bn,bnci->bci", shares, stacked.astype(jnp.float32)).astype(jnp.uint8)


def _matrices(
    images: jax.Array, chosen: Chosen, style: geometry.Style, names: Collection[str]
) -> jax.Array:
    """Returns the matrix of each image, `[B, 2, 3]`."""
    batch, height, width, _ = images.shape
    result = geometry.identity(batch)
    for name in _GEOMETRIC:
        if name in names:
            argument = _argument(chosen, name, 0.0)
            matrices = _MATRICES[style](name, argument, (height, width))
            is_it = chosen.operation == number(name)
            result = jnp.where(is_it[:, None, None], matrices, result)
    return result


def _grey_means(images: jax.Array, style: geometry.Style) -> jax.Array:
    """Returns the level that contrast leaves unchanged, `[B]`.

    For most styles, it is the mean grey value. TensorFlow's code sums the counts of the histogram
    without their values. Its level is the number of pixels divided by 256, at most 255.
    """
    if style != "tensorflow":
        return colour.grey_means(images, style)
    batch, height, width, _ = images.shape
    return jnp.full(batch, float(min(height * width // 256, 255)))


def _torchvision_matrix(name: str, arguments: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the matrices `[B, 2, 3]` of an operation of torchvision's policies."""
    if name == "rotate":
        return geometry.rotation(arguments)
    if name.startswith("shear"):
        return geometry.shear(arguments, _AXES[name[-1]], *size)
    zeros, ones = jnp.zeros_like(arguments), jnp.ones_like(arguments)
    moves = jnp.zeros((len(arguments), 2), jnp.float32).at[:, _AXES[name[-1]]].set(arguments)
    return geometry.affine(zeros, moves, ones, jnp.zeros_like(moves))


def _corner_matrix(
    name: str, arguments: jax.Array, size: tuple[int, int], corner: float
) -> jax.Array:
    """Returns the matrices `[B, 2, 3]` of an operation of Pillow or TensorFlow.

    Its argument is a coefficient of the map from the result to the image.

    Args:
      name: the operation.
      arguments: `[B]`.
      size: height and width of the images in pixels.
      corner: see `geometry.of_corner`.
    """
    if name == "rotate":
        return geometry.rotation(arguments)
    row, column = _COEFFICIENTS[name]
    matrices = geometry.identity(len(arguments)).at[:, row, column].set(arguments)
    return geometry.of_corner(matrices, *size, corner)


_AXES: Mapping[str, int] = MappingProxyType({"x": 0, "y": 1})
_COEFFICIENTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"shear_x": (0, 1), "shear_y": (1, 0), "translate_x": (0, 2), "translate_y": (1, 2)}
)
_MATRICES: Mapping[str, Callable[[str, jax.Array, tuple[int, int]], jax.Array]] = MappingProxyType(
    {
        "torchvision": _torchvision_matrix,
        "pillow": functools.partial(_corner_matrix, corner=0.0),
        "tensorflow": functools.partial(_corner_matrix, corner=-0.5),
    }
)
