"""Layers of a network, for rates by layer: each module's number, from the order of its calls.

The layers are those of fine-tuned vision transformers (BEiT: Bao et al. 2022, arXiv:2106.08254,
`get_num_layer_for_vit`; MAE: He et al. 2022, arXiv:2111.06377, `get_layer_id_for_vit` in
`util/lr_decay.py`): patch embedding, class token and position embeddings are layer 0, block i is
layer i + 1, and what follows the blocks is the last layer. timm extends them to convolutional
networks (`param_groups_layer_decay`, by the patterns of each network's `group_matcher`). Here they
are found by tracing, so that networks of users have layers too. For ViT they are those of MAE, and
for ResNet, SE-ResNet and ConvNeXt those of timm. Where timm differs:

- It counts a last normalisation (ViT, Swin, ResNetV2) or a last 1x1 convolution (EfficientNet,
  MobileNetV2, Inception-ResNet-v2) with the last block, not with the head.
- In DenseNet and CSPNet, it counts a transition with the block before it.
- In VGG, the dense layers are one layer, and each batch normalisation is one of its own.

The authors of ConvNeXt count up to three blocks as one layer (`get_num_layer_for_convnext`).
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from cnn_jax import errors
from cnn_jax.models import structure

_Path = tuple[str, ...]

# Names of arrays at the input, such as 'cls_token', 'pos_embed' and 'positional_embedding'.
_EMBEDDING = re.compile("token|pos|embed")


class _Unit(NamedTuple):
    """Module that is in one layer.

    Attributes:
      path: names of the modules from the network to this one.
      is_block: whether it is a block.
      has_kernel: whether it has an array with two axes or more.
    """

    path: _Path
    is_block: bool
    has_kernel: bool


def depths(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Returns the number of the layer of each module, from 0 at the input to the head.

    The modules of the network are taken in the order in which evaluation calls them. A block is a
    module with at least two kernels (arrays with two axes or more) and at least two other arrays.
    A module with two or more blocks of one class, such as a stage, is replaced by its modules.

    - Every block is a layer, with the modules between it and the block before, such as a
      downsampling convolution. What comes before the first block is layer 0, the stem. What comes
      after the last one is the last layer, the head.
    - In a network without blocks, such as VGG, every module with a kernel is a layer. One without,
      such as a normalisation, is in the layer of the module before it.
    - Embeddings that the network holds itself, such as the class token, are in its first layer.
    - Modules that only training calls, such as auxiliary heads, are in the last layer.

    Args:
      model: a network. It is traced; no array is allocated.
      input_shape: height, width and channels of the images.

    Returns:
      The number by the path of a module, or of an array that the network or a stage holds itself,
      joined by '/'. Each parameter is in one of them.

    Raises:
      UserError: the network has one layer only, or holds an array itself that is no embedding.

    >>> from cnn_jax import models
    >>> depths(models.create("vgg11_bn", num_classes=10), (32, 32, 3))["bn2_1"]
    1
    """
    variables = structure.variables_of(model, input_shape)
    params = nn.meta.unbox(variables.get("params", {}))
    tree = _Tree(params, structure.called(model, variables, input_shape), type(model).__name__)
    found = dict(tree.numbers())
    last = max(found.values(), default=0)
    if not last:
        raise errors.UserError(
            f"{tree.name} has {'one layer' if found else 'no layers'}, so no rates by layer; set "
            "optim.layer_decay to 1"
        )
    found.update((path, last) for path in tree.uncalled((), params))
    return {"/".join(path): number for path, number in found.items()}


@dataclasses.dataclass(frozen=True)
class _Tree:
    """Modules and arrays of a network.

    Attributes:
      params: shapes of the parameters.
      calls: class of each module by its path, in the order of calls.
      name: the network in messages.
    """

    params: Mapping[str, Any]
    calls: Mapping[_Path, str]
    name: str

    def numbers(self) -> Iterator[tuple[_Path, int]]:
        """Yields path and layer of each unit that is called, and of arrays beside the units."""
        units = list(self._units((), self.params))
        own = list(self._own((), self.params))
        numbers = _numbers(units)
        if numbers and numbers[0] and not own:  # The first unit is a block: there is no stem.
            numbers = [number - 1 for number in numbers]
        yield from zip((unit.path for unit in units), numbers, strict=True)
        for *above, name in own:
            inside = [unit.path[: len(above)] == tuple(above) for unit in units]
            yield (*above, name), numbers[inside.index(True)] if above else 0

    def _units(self, path: _Path, node: Mapping[str, Any]) -> Iterator[_Unit]:
        """Yields the units at and below a module that is no unit, in the order of calls."""
        names = [name for name in _modules(node) if (*path, name) in self._order]
        for name in sorted(names, key=lambda name: self._order[(*path, name)]):
            child = node[name]
            if self._is_stage((*path, name), child):
                yield from self._units((*path, name), child)
            else:
                yield _Unit((*path, name), _is_block(child), _kernels(child) > 0)

    @functools.cached_property
    def _order(self) -> Mapping[_Path, int]:
        """Number of the first call of each module, or of a module in it, by its path."""
        order: dict[_Path, int] = {}
        for number, path in enumerate(self.calls):
            for length in range(1, len(path) + 1):
                order.setdefault(path[:length], number)
        return order

    def _is_stage(self, path: _Path, node: Mapping[str, Any]) -> bool:
        """Returns True if a module holds two or more blocks of one class."""
        classes = Counter(
            self.calls[(*path, name)]
            for name in _modules(node)
            if (*path, name) in self.calls and _is_block(node[name])
        )
        return max(classes.values(), default=0) > 1

    def _own(self, path: _Path, node: Mapping[str, Any]) -> Iterator[_Path]:
        """Yields the paths of arrays that the network or a stage holds itself.

        Raises:
          UserError: the name of one is not that of an embedding.
        """
        for name, child in node.items():
            inside = (*path, name)
            if not isinstance(child, Mapping):
                if not _EMBEDDING.search(name):
                    raise errors.UserError(
                        f"the layer of the array {'/'.join(inside)} of {self.name} is unknown, "
                        "because it is in no module that is a layer; put it in one, or set "
                        "optim.layer_decay to 1 and use optim.rate_factors"
                    )
                yield inside
            elif self._is_stage(inside, child):
                yield from self._own(inside, child)

    def uncalled(self, path: _Path, node: Mapping[str, Any]) -> Iterator[_Path]:
        """Yields the paths of modules below a module that evaluation does not call."""
        for name in _modules(node):
            inside = (*path, name)
            if inside not in self._order:
                yield inside
            elif self._is_stage(inside, node[name]):
                yield from self.uncalled(inside, node[name])


def _numbers(units: Sequence[_Unit]) -> list[int]:
    """Returns the layer of each unit; see `depths`. The first block is layer 1."""
    if not any(unit.is_block for unit in units):
        kernels = 0
        found = []
        for unit in units:
            kernels += unit.has_kernel
            found.append(max(kernels - 1, 0))
        return found
    blocks = 0
    found = []
    for unit in units:
        found.append(blocks + 1 if blocks or unit.is_block else 0)
        blocks += unit.is_block
    return found


def _modules(node: Mapping[str, Any]) -> list[str]:
    return [name for name, child in node.items() if isinstance(child, Mapping)]


def _kernels(node: Any) -> int:
    """Returns the number of arrays with two axes or more."""
    return sum(leaf.ndim > 1 for leaf in jax.tree.leaves(node))


def _is_block(node: Any) -> bool:
    kernels = _kernels(node)
    return kernels > 1 and len(jax.tree.leaves(node)) - kernels > 1
