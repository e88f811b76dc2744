"""Type of a rename table: our module paths to names in a torch, timm or torchvision state dict."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

# Names of our leaves in torch. Other leaves have the same name.
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Names:
    """Rename table of a network.

    "The reference" is the implementation whose names the state dict has.

    Attributes:
      rules: pairs of a regular expression and its replacement. They are applied in order to our
        path of a module, joined by dots, such as `mixed5b.branch1x1.conv`. Without rules the
        names are the same.
      flattened: the dense layers whose input is a flattened image, by our path, with the number of
        channels of that image. Torch flattens `[C, H, W]`, Flax `[H, W, C]`.
      convolved: the dense layers that are convolutions in the reference, by our path, with the
        height and width of the kernel.
      entries: rules that are applied afterwards to the whole key, including the leaf.
      options: fields that a network needs for weights with these names.
      flax: True for the names and the layout of Flax, in files of `pretrained.save`: our whole path
        joined by dots, such as 'params.conv1.kernel'. All other fields are unused then.
    """

    rules: tuple[tuple[str, str], ...] = ()
    flattened: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    convolved: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    entries: tuple[tuple[str, str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    flax: bool = False

    def name(self, path: tuple[str, ...]) -> str:
        """Returns the key of a variable in the state dict, in the layout of the table.

        Args:
          path: the names on our path to the variable, from the collection to the leaf.
        """
        return ".".join(path) if self.flax else self.torch(path[1:])

    def torch(self, path: tuple[str, ...]) -> str:
        """Returns the key of a variable in the state dict, such as 'layer1.0.conv2.weight'.

        Args:
          path: the names on our path to the variable, outermost first, without the collection.
        """
        *modules, leaf = path
        name = self.module(modules)
        return _apply(self.entries, f"{name}.{_LEAVES.get(leaf, leaf)}" if name else leaf)

    def module(self, modules: Iterable[str]) -> str:
        """Returns the name of a module in the library of the weights, such as 'layer1.0.conv2'.

        Args:
          modules: the names on our path to the module, outermost first.
        """
        return _apply(self.rules, ".".join(modules))


def _apply(rules: tuple[tuple[str, str], ...], name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
