"""Weights for images of another size or number of channels.

- Position embeddings (ViT) and tables of relative positions (Swin): resampled, `positions`.
- Kernels of the layers that see the image: summed or repeated over the channels, `recoloured`.
- Dense layers after a flattened feature map (VGG, AlexNet): joined with the adaptive average
  pooling that torchvision puts before them, `pooled`.

All other variables have the same shape for all images.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import models
from cnn_jax.models.swin import PATCH_SIZE, SwinTransformer
from cnn_jax.models.vit import VisionTransformer
from cnn_jax.pretrained import convert, fit, heads
from cnn_jax.pretrained.convert import Entry
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.fitting import positions
from cnn_jax.pretrained.network import Network, Path

_POSITIONS = ("params", "pos_embed")  # of ViT
_TABLE = "relative_position_bias_table"
_STAGE = re.compile(r"layers_(\d+)_blocks_\d+")
Pair = tuple[int, int]
Entries = Mapping[Path, Entry]


class Adapted(NamedTuple):
    """Weights that fit a network.

    Attributes:
      network: the network, with the shape of its images.
      state_dict: name to array.
      notes: a sentence for each change of the arrays.
    """

    network: Network
    state_dict: Mapping[str, np.ndarray]
    notes: tuple[str, ...]


def to_images(
    network: Network,
    state_dict: Mapping[str, np.ndarray],
    stated: tuple[int, int, int] | None = None,
    *,
    asked: bool,
) -> Adapted:
    """Adapts a state dict to the images of a network, as timm and torchvision do.

    Args:
      network: the network.
      state_dict: name to array, under the network's names.
      stated: height, width and channels that the source of the weights gives, 0 channels if it
        gives none.
      asked: True if the caller chose the network's input shape. If False, the network gets the
        stated shape, or else the shape that the weights are for.

    Returns:
      The network and its weights. Arrays whose shape does not depend on the images are unchanged.

    Raises:
      UserError: the network cannot be built for these images. Also if an array that must change has
        no floating-point dtype, or has values that are not finite.
    """
    own = _own_shape(network, state_dict, stated)
    if not asked:
        shape = own if stated is None else (*stated[:2], stated[2] or own[2])
        network = Network.of(network.name, shape, network.options)
    source = dataclasses.replace(network, input_shape=own)
    found, notes = dict(state_dict), list[str]()
    if own != network.input_shape:
        notes += _adapt_entries(source, network, found)
    notes += _adapt_tables(source, network, found)
    return Adapted(network, found, tuple(dict.fromkeys(notes)))


def stated_shape(config: Mapping[str, Any] | None) -> tuple[int, int, int] | None:
    """Returns height, width and channels of the images in timm's config, None if it has no size.

    The channels are 0 if the config does not give those of the network. Sizes that are no positive
    integers count as none; `preprocessing.from_timm` reports them.

    Args:
      config: the content of config.json.
    """
    if config is None:
        return None
    settings, arguments = config.get("pretrained_cfg", config), config.get("model_args")
    settings, arguments = (
        part if isinstance(part, Mapping) else {} for part in (settings, arguments)
    )
    channels, size = arguments.get("in_chans"), arguments.get("img_size")
    if size is None:
        given = settings.get("input_size")
        size = given[1:] if isinstance(given, (list, tuple)) else None
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(map(_is_size, sides)):
        return None
    return sides[0], sides[1], channels if isinstance(channels, int) and channels > 0 else 0


def recoloured(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns the kernel `[kh, kw, I, O]` of a first layer for another number of channels.

    As `adapt_input_conv` of timm's models/_manipulate.py. For one channel, the kernels are summed:
    a grey image gives what its three equal colours gave. For more, they are repeated in turn and
    scaled by `I / channels`.

    Args:
      kernel: the kernel.
      channels: the new I.
    """
    given = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True, dtype=np.float64).astype(kernel.dtype)
    repeated = np.tile(kernel, (1, 1, math.ceil(channels / given), 1))[:, :, :channels]
    return repeated * np.asarray(given / channels, kernel.dtype)


def pooled(kernel: np.ndarray, old: Pair, new: Pair) -> np.ndarray:
    """Returns the kernel of a dense layer joined with an adaptive average pooling before it.

    The result on maps of the new size equals the given kernel on these maps after torch's
    `AdaptiveAvgPool2d(old)`, because both are linear.

    Args:
      kernel: `[h w C, O]`, for flattened maps `[h, w, C]`.
      old: h and w.
      new: height and width of the maps for the result.

    Returns:
      `[new h * new w * C, O]`, of the same dtype.
    """
    outputs = kernel.shape[-1]
    maps = kernel.reshape(*old, -1, outputs)
    # VGG's kernel has 400 MB, so it is not copied to float64.
    rows, columns = (_means(*sides).astype(kernel.dtype) for sides in zip(new, old, strict=True))
    found = np.einsum("ih,jw,ijco->hwco", rows, columns, maps, optimize=True)
    return found.reshape(-1, outputs)


def _means(inputs: int, outputs: int) -> np.ndarray:
    """Returns the matrix `[outputs, inputs]` of an axis of torch's adaptive average pooling."""
    places = np.arange(outputs)[:, None]
    first, end = places * inputs // outputs, -(-(places + 1) * inputs // outputs)
    inside = (np.arange(inputs) >= first) & (np.arange(inputs) < end)
    return inside / inside.sum(axis=1, keepdims=True)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _own_shape(
    network: Network, state_dict: Mapping[str, np.ndarray], stated: tuple[int, int, int] | None
) -> tuple[int, int, int]:
    """Returns height, width and channels of the images that weights are for.

    Candidates for the size, in order: the stated size, the published size, the square image with
    as many positions as the weights, and the network's size. The first candidate that gives the
    shapes of the weights is returned. No shape in a Swin depends on the image size, so that its
    first candidate is returned. Other weights without such a shape get the network's size.
    """
    entries = convert.entries(network, state_dict, 1)
    height, width, channels = network.input_shape
    first = next((e for path, e in entries.items() if _is_kernel(path, e)), None)
    if first and first.name in state_dict and state_dict[first.name].ndim == 4:
        channels = state_dict[first.name].shape[1 if first.torch else 2]
    sized = [path for path in entries if _depends_on_size(network, path)]
    unseen = isinstance(network.create(1), SwinTransformer)
    for size in _sizes(network, entries, state_dict, stated) if sized or unseen else ():
        candidate = Network.of(network.name, (*size, channels), network.options)
        if _fits(candidate, sized, state_dict):
            return candidate.input_shape
    return height, width, channels


def _is_kernel(path: Path, entry: Entry) -> bool:
    """Returns True for the kernel of a convolution."""
    return path[-1] == "kernel" and len(entry.variable_shape) == 4


def _depends_on_size(network: Network, path: Path) -> bool:
    """Returns True for a variable whose shape depends on the size of the images."""
    return path == _POSITIONS or _flattened(network, path) > 0


def _flattened(network: Network, path: Path) -> int:
    """Returns the channels of the map that a dense layer's kernel is for, 0 for other variables."""
    if path[-1] != "kernel" or network.name not in tables.published():
        return 0
    return tables.for_network(network.name)[0].flattened.get(".".join(path[1:-1]), 0)


def _sizes(
    network: Network,
    entries: Entries,
    state_dict: Mapping[str, np.ndarray],
    stated: tuple[int, int, int] | None,
) -> Iterator[Pair]:
    """Yields heights and widths of images that weights can be for."""
    if stated:
        yield stated[:2]
    if network.name in models.names():
        yield models.input_shape(network.name)[:2]
    model = network.create(1)
    if isinstance(model, VisionTransformer):
        name = entries[_POSITIONS].name
        count = math.prod(state_dict[name].shape[1:2]) if name in state_dict else 0
        side = math.isqrt(max(count - 1, 0))
        if side and side**2 == count - 1:
            yield side * model.patch_size, side * model.patch_size
    yield network.input_shape[:2]


def _fits(network: Network, paths: list[Path], state_dict: Mapping[str, np.ndarray]) -> bool:
    """Returns True if a state dict has arrays of the network's shapes for all given variables."""
    try:
        entries = convert.entries(network, state_dict, 1)
    except ValueError:  # ViT refuses sizes that are no multiples of its patches.
        return False
    return all(_has(state_dict, entries[path]) for path in paths)


def _has(state_dict: Mapping[str, np.ndarray], entry: Entry) -> bool:
    """Returns True if a state dict has an array of the entry's name and shape."""
    array = state_dict.get(entry.name)
    return array is not None and (
        fit.without_trailing_ones(array.shape) == fit.without_trailing_ones(entry.shape)
    )


def _adapt_entries(source: Network, target: Network, found: dict[str, np.ndarray]) -> Iterator[str]:
    """Replaces the arrays that differ between two shapes of images; yields a sentence for each."""
    count = heads.num_classes(source, found) or 1
    before, after = (convert.entries(each, found, count) for each in (source, target))
    if any(len(old.shape) == 4 and _flattened(source, path) for path, old in before.items()):
        # Timm's VGG has a 7x7 convolution there, for images of any size.
        table = tables.for_network(target.name)[0]
        shapes = target.shapes(count)
        after = {path: convert.entry(table, path, shape) for path, shape in shapes.items()}
    for path, old in before.items():
        new = after[path]
        if not _has(found, old):
            continue
        if old == new and not _depends_on_size(source, path):
            continue
        variable = old.to_variable(found[old.name])
        changed, note = _adapted(path, variable, source, target)
        if changed.shape == new.variable_shape:
            del found[old.name]
            found[new.name] = new.from_variable(changed)
            yield from filter(None, [note])


def _adapted(
    path: Path, variable: np.ndarray, source: Network, target: Network
) -> tuple[np.ndarray, str]:
    """Returns a variable for the images of another network, and a sentence about the change."""
    if path == _POSITIONS:
        old, new = _patches(source), _patches(target)
        note = f"resampled the positions of {_size(old)} patches to {_size(new)}, as timm"
        return positions.resample(variable, old, new), note if old != new else ""
    if channels := _flattened(source, path):
        old, new = (_map_size(each, path, channels) for each in (source, target))
        note = (
            f"joined {path[-2]} with the pooling of torchvision, from maps of {_size(new)} pixels "
            f"to {_size(old)}"
        )
        return (pooled(variable, old, new), note) if old != new else (variable, "")
    given, channels = source.input_shape[2], target.input_shape[2]
    if variable.ndim == 4 and given != channels and variable.shape[2] == given:
        done = "summed" if channels == 1 else "repeated" if channels > given else "cut"
        note = f"{done} {path[-2]} for images of {channels} channels, not {given}, as timm"
        return recoloured(variable, channels), note
    return variable, ""


def _patches(network: Network) -> Pair:
    """Returns the rows and columns of patches of a ViT."""
    side = network.create(1).patch_size
    return network.input_shape[0] // side, network.input_shape[1] // side


def _map_size(network: Network, path: Path, channels: int) -> Pair:
    """Returns height and width of the feature map that a dense layer flattens.

    A map of as many pixels as for the published image size is square, because the network pools
    larger maps to that size. Otherwise, each side is found with a square image of this side.
    """

    def pixels(shape: tuple[int, int, int]) -> int:
        found = dataclasses.replace(network, input_shape=shape).shapes(1)
        return found[path][0] // channels

    height, width, colours = network.input_shape
    published = pixels((*models.input_shape(network.name)[:2], colours))
    if height == width or pixels(network.input_shape) == published:
        side = math.isqrt(pixels(network.input_shape))
        return side, side
    rows, columns = (math.isqrt(pixels((side, side, colours))) for side in (height, width))
    return rows, columns


def _size(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"


def _adapt_tables(source: Network, target: Network, found: dict[str, np.ndarray]) -> Iterator[str]:
    """Replaces the tables of relative positions of a Swin; yields a sentence for each change.

    The tables of our network have the size for windows of `window` patches. A window is smaller
    where the feature map is smaller. Only the centre of our table is used then; timm's table
    consists of this centre.
    """
    model = target.create(1)
    if not isinstance(model, SwinTransformer):
        return
    for path, entry in convert.entries(target, found, 1).items():
        stage = _STAGE.fullmatch(path[1])
        if path[-1] != _TABLE or stage is None or entry.name not in found:
            continue
        array = convert.floats(entry.name, found[entry.name])
        table = array.T if entry.torch else array
        largest = (model.window, model.window)
        here, new = (_window(each, int(stage[1]), model.window) for each in (source, target))
        given = _table_window(table, here)
        old = here if given == largest else given
        if given is None or old is None or (given == largest and old == new):
            continue
        changed = positions.resample_table(_centre(table, given, old), old, new)
        blank = np.zeros((len(table), (2 * model.window - 1) ** 2), table.dtype)
        changed = _with_centre(table if given == largest else blank, largest, changed, new)
        found[entry.name] = changed.T if entry.torch else changed
        if old != new:
            yield f"resampled biases of windows of {_size(old)} patches to {_size(new)}, as timm"


def _table_window(table: np.ndarray, window: Pair) -> Pair | None:
    """Returns the window that a table is for: a square, or else `window`; None if neither fits."""
    count = table.shape[-1]
    side = (math.isqrt(count) + 1) // 2
    for found in ((side, side), window):
        if table.ndim == 2 and count == math.prod(2 * length - 1 for length in found):
            return found
    return None


def _window(network: Network, stage: int, largest: int) -> Pair:
    """Returns height and width of a Swin's windows in a stage; the first stage is 0."""
    height, width = (
        min(largest, -(-(side // PATCH_SIZE) // 2**stage)) for side in network.input_shape[:2]
    )
    return height, width


def _centre(table: np.ndarray, largest: Pair, window: Pair) -> np.ndarray:
    """Returns the biases `[heads, N]` of a smaller window in the table of a larger one."""
    sides = (2 * length - 1 for length in largest)
    found = table.reshape(-1, *sides)[:, *_places(largest, window)]
    return found.reshape(len(table), -1)


def _with_centre(table: np.ndarray, largest: Pair, centre: np.ndarray, window: Pair) -> np.ndarray:
    """Returns a table with other biases for a smaller window: the inverse of `_centre`."""
    found = table.reshape(-1, *(2 * length - 1 for length in largest)).copy()
    sides = (2 * length - 1 for length in window)
    found[:, *_places(largest, window)] = centre.reshape(len(table), *sides)
    return found.reshape(len(table), -1)


def _places(largest: Pair, window: Pair) -> tuple[slice, slice]:
    """Returns the rows and columns of a smaller window in the table of a larger one."""
    rows, columns = (
        slice(most - length, most + length - 1)
        for most, length in zip(largest, window, strict=True)
    )
    return rows, columns
